import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { plainIo } from './layer.ts'
import { ThrottleGroup } from './throttle-group.ts'
import { changedLimits, noLimits } from './throttle-limits.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function groupOf(limits: Record<string, number>): ThrottleGroup {
  return new ThrottleGroup(changedLimits(noLimits, limits))
}

/** Requests that went within a time, by who made them. */
async function wentWithin(
  group: ThrottleGroup,
  milliseconds: number,
  requests: readonly { readonly who: number; readonly length: number }[],
): Promise<number[]> {
  const members = [group.join(), group.join(), group.join()]
  const went: number[] = []
  for (const { who, length } of requests) {
    const turn = group.take(members[who], 'write', length, plainIo)
    if (turn) turn.then(() => went.push(who))
    else went.push(who)
  }
  await vi.advanceTimersByTimeAsync(milliseconds)
  return went
}

const requests = (count: number, length: number, who = 0) =>
  Array.from({ length: count }, () => ({ who, length }))

it('keeps the rate in the long run, after a tenth of a second at once', async () => {
  const went = await wentWithin(groupOf({ 'bps-total': 1000 }), 9900, requests(200, 100))
  expect(went.length).toBeGreaterThanOrEqual(100)
  expect(went.length).toBeLessThanOrEqual(102)
})

it('never cuts a long request: what comes after waits longer', async () => {
  const group = groupOf({ 'bps-write': 1000 })
  expect((await wentWithin(group, 4800, requests(3, 5000))).length).toBe(1)
  await vi.advanceTimersByTimeAsync(200)
  expect(await wentWithin(group, 0, [])).toEqual([])
})

it('allows bursts of a rate and a length, and no more until they are paid off', async () => {
  const limits = { 'iops-total': 10, 'iops-total-max': 100, 'iops-total-max-length': 3 }
  const group = groupOf(limits)
  const inBurst = (await wentWithin(group, 3000, requests(1000, 512))).length
  expect(inBurst).toBeGreaterThan(290)
  expect(inBurst).toBeLessThan(340)
})

it('counts long requests as several operations', async () => {
  const group = groupOf({ 'iops-total': 10, 'iops-size': 4096 })
  expect((await wentWithin(group, 900, requests(10, 8192))).length).toBeLessThanOrEqual(6)
})

it('lets disks take turns, however many requests each has waiting', async () => {
  const group = groupOf({ 'iops-total': 10 })
  const all = [...requests(50, 512, 0), ...requests(5, 512, 1), ...requests(5, 512, 2)]
  const went = await wentWithin(group, 1300, all)
  for (const who of [1, 2]) {
    expect(went.filter((each) => each === who).length).toBeGreaterThanOrEqual(4)
  }
})

it('does not count reads as writes', async () => {
  const group = groupOf({ 'bps-read': 1 })
  expect((await wentWithin(group, 0, requests(10, 4096))).length).toBe(10)
})

it('forgets a request that is aborted', async () => {
  const group = groupOf({ 'iops-total': 1 })
  const member = group.join()
  group.take(member, 'read', 1, plainIo)
  const abort = new AbortController()
  const waiting = group.take(member, 'read', 1, { signal: abort.signal })
  abort.abort(new Error('changed my mind'))
  await expect(waiting).rejects.toThrow('changed my mind')
})

it('lets pass what somebody waits for before the requests of jobs, eight times', async () => {
  const group = groupOf({ 'iops-total': 10 })
  const member = group.join()
  const went: string[] = []
  const take = (name: string, background: boolean) => {
    const turn = group.take(member, 'write', 1, { ...plainIo, background })
    if (turn) turn.then(() => went.push(name))
  }
  for (let number = 0; number < 3; number++) take(`job ${number}`, true)
  for (let number = 0; number < 20; number++) take(`guest ${number}`, false)
  await vi.advanceTimersByTimeAsync(2500)
  const first = went.indexOf('job 2')
  expect(went.slice(0, 3)).not.toContain('job 2')
  expect(first).toBeLessThanOrEqual(12)
  expect(went.length).toBeGreaterThan(20)
})

it('lets those who wait go when the limits are lifted, or the disk is drained', async () => {
  const group = groupOf({ 'iops-total': 1 })
  const member = group.join()
  const other = group.join()
  for (const each of [member, other]) group.take(each, 'read', 1, plainIo)
  const waiting = group.take(member, 'read', 1, plainIo)
  group.exempt(member)
  await waiting
  group.limit(member)
  const others = group.take(other, 'read', 1, plainIo)
  group.limits = noLimits
  await others
})

it.each([
  [{ 'bps-total': 5, 'bps-read': 3 }, 'cannot be used at the same time'],
  [{ 'bps-total': 5, 'bps-total-max': 3 }, 'cannot be lower'],
  [{ 'bps-total': -1 }, 'within [0, 1000000000000000]'],
  [{ 'iops-read': 5, 'iops-read-max-length': 2 }, 'without burst rate'],
  [{ 'iops-read': 5, 'iops-read-max-length': 0 }, 'cannot be 0'],
  [{ 'iops-size': 5 }, 'requires an iops value'],
])('refuses %j', (limits, message) => {
  expect(() => changedLimits(noLimits, limits)).toThrow(message)
})
