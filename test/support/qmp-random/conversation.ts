/** A random conversation with both daemons, each in its copy of the world, and what differs. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDrain, normalised, withoutTime } from '../qmp-normal.ts'
import { command, type Message, QmpTalk, varveDaemon } from '../qmp-talk.ts'
import type { Random } from '../random.ts'
import { nextCommand } from './commands.ts'
import { differences } from './differences.ts'
import { Side } from './side.ts'
import { emptyView, type View, worldFiles } from './world.ts'

export interface Outcome {
  /** All that was said, up to where they differ. */
  readonly said: readonly Message[]
  readonly difference?: string
  /** Why the conversation ended early: Debian's daemon is gone, or answers no more. */
  readonly theirEnd?: string
}

export interface Setting {
  /** Of the files; copied to `folder` for each side. */
  readonly world: string
  readonly folder: string
  /** Debian's daemon. */
  readonly program: string
}

/** How long events and states that differ are waited for. */
const graceMs = 1_500

/** Says what `next` makes of the state of the world, until it has nothing to say. */
export async function converse(
  setting: Setting,
  next: (view: View, step: number) => Message | undefined,
): Promise<Outcome> {
  const said: Message[] = []
  const folders = ['theirs', 'ours'].map((name) => join(setting.folder, name))
  for (const folder of folders) {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    cpSync(setting.world, folder, { recursive: true })
  }
  const talks = await Promise.all([
    QmpTalk.start([setting.program], folders[0]),
    QmpTalk.start(varveDaemon, folders[1]),
  ])
  try {
    const [theirs, ours] = talks.map((talk) => new Side(talk))
    for (const side of [theirs, ours]) {
      await side.say(command('qmp_capabilities'))
      // `/objects` is not there in QEMU's daemon before somebody has asked for an object.
      await side.say(command('object-del', { id: 'no-such' }))
    }
    let view = emptyView
    for (let step = 0; ; step++) {
      const message = next(view, step)
      if (message === undefined) break
      said.push(message)
      const result = await compareStep(theirs, ours, message)
      if ('view' in result) view = result.view
      else return { said, ...result }
    }
    const ends = await Promise.all(talks.map(ended))
    if (ends[0].status !== 0) return { said, theirEnd: 'ends badly' }
    if (ends[1].status !== 0) return { said, difference: `ours ended with ${ends[1].status}` }
    return { said, difference: imageDifference(folders, said) }
  } finally {
    for (const talk of talks) await talk[Symbol.asyncDispose]()
  }
}

/** The conversation that follows from chance. */
export function randomConversation(
  setting: Setting,
  random: Random,
  length: number,
): Promise<Outcome> {
  return converse(setting, (view, step) =>
    step < length ? nextCommand(random, view, step) : undefined,
  )
}

export function replay(setting: Setting, steps: readonly Message[]): Promise<Outcome> {
  return converse(setting, (_, step) => steps[step])
}

type Compared = { view: View } | { difference: string } | { theirEnd: string }

async function compareStep(theirs: Side, ours: Side, message: Message): Promise<Compared> {
  const [their, our] = await Promise.all([
    theirs.say(message).catch(() => undefined),
    ours.say(message).catch((error) => `ours: ${error.message}`),
  ])
  if (their === undefined) return { theirEnd: JSON.stringify(message) }
  if (their !== our) return { difference: `answer\n${differences(their, our)}` }
  const deadline = performance.now() + graceMs
  const events: [Message[], Message[]] = [[], []]
  for (;;) {
    let view: View
    let states: Readonly<Record<string, string>>[]
    try {
      await theirs.quiet()
      const state = await theirs.state()
      states = [state.compared]
      view = state.view
    } catch (error) {
      return { theirEnd: `after ${JSON.stringify(message)}: ${(error as Error).message}` }
    }
    try {
      await ours.quiet()
      states.push((await ours.state()).compared)
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

async function ended(talk: QmpTalk): Promise<{ status: number | null }> {
  return await talk.quit().catch(() => ({ status: -1 }))
}

/** Jobs that were not allowed to end leave as much as they had done. */
function isUnfinished(said: readonly Message[]): boolean {
  return /"speed"|cancel|"sync":"none"/.test(JSON.stringify(said))
}

function imageDifference(folders: readonly string[], said: readonly Message[]): string | undefined {
  const names = [...worldFiles.map(({ name }) => name), 'over0.qcow2', 'over1.qcow2', 'made.img']
  for (const name of names) {
    const [their, our] = folders.map((folder) => join(folder, name))
    if (existsSync(their) !== existsSync(our)) return `${name}: only one side has it`
    if (!existsSync(their)) continue
    const results = [their, our].map(checked)
    if (results[0] !== results[1])
      return `${name}: check\n  theirs ${results[0]}\n  ours   ${results[1]}`
    if (isUnfinished(said)) continue
    const compared = attempt('qemu-img', ['compare', '-q', their, our])
    if (compared.status === 1) return `${name}: contents differ`
  }
  return undefined
}

function checked(file: string): string {
  const { status, stdout } = attempt('qemu-img', ['check', '--output=json', file])
  if (status !== 0 && status !== 2 && status !== 3) return 'not checked'
  const { corruptions, leaks } = JSON.parse(stdout)
  return `corruptions ${corruptions ?? 0}, ${leaks ? 'leaks' : 'no leaks'}`
}

function attempt(program: string, args: readonly string[]): { status: number; stdout: string } {
  try {
    const stdout = execFileSync(program, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return { status: 0, stdout }
  } catch (error) {
    const { status, stdout } = error as { status: number; stdout: string }
    return { status: status ?? -1, stdout }
  }
}
