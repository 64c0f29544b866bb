/** One command said to both sides: what differs in the answers, in what they tell, and in what is there afterwards. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isDrain, normalised, withoutTime } from '../qmp-normal.ts'
import type { Message } from '../qmp-talk.ts'
import { differences } from './differences.ts'
import type { Side } from './side.ts'
import type { View } from './world.ts'

/** How long events and states that differ are waited for. */
const graceMs = 1_500

export interface StepResult {
  readonly difference?: string
  /** Why Debian's daemon has nothing more to say. */
  readonly theirEnd?: string
  /** What is there on both sides alike; without it they are no longer in the same state. */
  readonly view?: View
}

/** When both refuse, but with other words, the conversation may go on. */
export async function compareStep(
  theirs: Side,
  ours: Side,
  message: Message,
  said: readonly Message[] = [],
): Promise<StepResult> {
  const [their, our] = await Promise.all([
    theirs.say(message).catch(() => undefined),
    ours.say(message).catch((error) => `ours: ${error.message}`),
  ])
  if (their === undefined) return { theirEnd: JSON.stringify(message) }
  const difference = their === our ? undefined : `answer\n${differences(their, our)}`
  if (difference && !(isRefusal(their) && isRefusal(our))) return { difference }
  const after = await compareStates(theirs, ours, message, commits(said))
  return { ...after, difference: difference ?? after.difference }
}

/** QEMU leaves the base of a commit writable when that is cancelled. */
function commits(said: readonly Message[]): boolean {
  return said.some(({ execute }) => execute === 'block-commit')
}

function isRefusal(answer: string): boolean {
  return answer.startsWith('[{"error"')
}

async function compareStates(
  theirs: Side,
  ours: Side,
  message: Message,
  withoutAccess: boolean,
): Promise<StepResult> {
  const deadline = performance.now() + graceMs
  const events: [Message[], Message[]] = [[], []]
  for (;;) {
    let view: View
    let states: Readonly<Record<string, string>>[]
    try {
      await theirs.quiet()
      const state = await theirs.state()
      states = [withoutAccess ? lessAccess(state.compared) : state.compared]
      view = state.view
    } catch (error) {
      return { theirEnd: `after ${JSON.stringify(message)}: ${(error as Error).message}` }
    }
    try {
      await ours.quiet()
      const { compared } = await ours.state()
      states.push(withoutAccess ? lessAccess(compared) : compared)
    } catch (error) {
      return { difference: `ours: ${(error as Error).message}` }
    }
    for (const [index, side] of [theirs, ours].entries()) events[index].push(...side.takeEvents())
    const [theirEvents, ourEvents] = events.map(eventText)
    const different = Object.keys(states[0]).filter((name) => states[0][name] !== states[1][name])
    if (different.length === 0 && theirEvents === ourEvents) return { view }
    if (performance.now() > deadline) {
      const parts = different.map(
        (name) => `${name}\n${differences(states[0][name], states[1][name])}`,
      )
      if (theirEvents !== ourEvents) {
        parts.push(`events\n${differences(theirEvents, ourEvents)}`)
      }
      return { difference: parts.join('\n') }
    }
    await sleep(30)
  }
}

function lessAccess(compared: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return {
    ...compared,
    edges: '',
    nodes: compared.nodes.replaceAll(/"ro":(true|false)/g, '"ro":0'),
  }
}

/** Events of each job in their order, then all others. */
function eventText(events: readonly Message[]): string {
  const bySubject = new Map<string, unknown[]>()
  for (const event of events) {
    if (isDrain(event) || isStandby(event)) continue
    const data = event.data as Message
    const subject = String(data?.id ?? data?.device ?? '')
    const list = bySubject.get(subject) ?? []
    list.push(withoutProgress(withoutTime(event)))
    bySubject.set(subject, list)
  }
  const told = [...bySubject].filter(([, list]) => !isStillborn(list))
  const sorted = told.sort(([one], [other]) => (one < other ? -1 : 1))
  return JSON.stringify(normalised(sorted as unknown as Message[]), sortedKeys)
}

function sortedKeys(_: string, each: unknown): unknown {
  return typeof each === 'object' && each !== null && !Array.isArray(each)
    ? Object.fromEntries(Object.entries(each).sort())
    : each
}

/** QEMU tells of some jobs that were refused, depending on where it sees the reason. */
function isStillborn(events: readonly unknown[]): boolean {
  const statuses = events.map((event) => (event as { data: Message }).data?.status)
  return statuses.join() === 'created,null'
}

/** A job that is ready is put off for a moment, too, while the graph is changed. */
function isStandby({ event, data }: Message): boolean {
  const status = (data as Message)?.status
  return event === 'JOB_STATUS_CHANGE' && (status === 'standby' || status === 'ready')
}

/** A cancelled job tells how far it came. */
function withoutProgress(event: Message): Message {
  if (!/^BLOCK_JOB_(CANCELLED|COMPLETED|READY|PENDING)$/.test(String(event.event))) return event
  const { offset: _o, len: _l, ...data } = event.data as Record<string, unknown>
  return { ...event, data }
}
