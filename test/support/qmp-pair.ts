/** The same conversation about jobs with Debian's qemu-storage-daemon and with ours, side by side. */
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { inOneOrder, inOrder, isDrain, normalised, withoutTime } from './qmp-normal.ts'
import { type Answers, command, type Message, QmpTalk, varveDaemon } from './qmp-talk.ts'

export { command }

/** What is said, or waited for: a status of a job, `gone` when it is no longer listed. */
export type Step = Message | { readonly until: string }

interface Record {
  readonly answers: unknown[]
  readonly events: unknown[]
}

export class QmpPair implements AsyncDisposable {
  readonly folders: readonly [string, string]
  readonly #sides: readonly [QmpTalk, QmpTalk]
  readonly #saidAlone: readonly [unknown[], unknown[]] = [[], []]

  /** `prepare` makes the images of one side in its folder, which exists. */
  static async start(
    folder: string,
    program: string,
    prepare: (folder: string) => void,
  ): Promise<QmpPair> {
    const folders = [join(folder, 'theirs'), join(folder, 'ours')] as const
    for (const each of folders) {
      mkdirSync(each, { recursive: true })
      prepare(each)
    }
    const sides = await Promise.all([
      QmpTalk.start([program], folders[0]),
      QmpTalk.start(varveDaemon, folders[1]),
    ])
    const pair = new QmpPair(folders, sides)
    await pair.same([command('qmp_capabilities')])
    return pair
  }

  private constructor(folders: readonly [string, string], sides: readonly [QmpTalk, QmpTalk]) {
    this.folders = folders
    this.#sides = sides
  }

  /** Says the same to both; answers and events must be the same, but for members that are `ignored`. */
  async same(steps: readonly Step[], ignored: readonly string[] = []): Promise<void> {
    const [theirs, ours] = await Promise.all(this.#sides.map((side) => converse(side, steps)))
    const without = (record: unknown) => leaveOut(record, ignored)
    expect(without(ours.answers)).toEqual(without(theirs.answers))
    expect(without(ours.events)).toEqual(without(theirs.events))
  }

  /** What either says, theirs first, with the events that came along. */
  async both(message: Message): Promise<readonly [Answers, Answers]> {
    const [theirs, ours] = this.#sides
    return await Promise.all([theirs.say(message), ours.say(message)])
  }

  /** What either says to `query-qmp-schema`, theirs first. */
  async schemas(): Promise<readonly unknown[]> {
    const asked = await this.both(command('query-qmp-schema'))
    return asked.map(({ replies }) => replies[0].return)
  }

  /** Says the same to both, and tells where the answers are not the same. */
  async differences(steps: readonly Message[]): Promise<string[]> {
    const [theirs, ours] = await Promise.all(this.#sides.map((side) => converse(side, steps)))
    return steps.flatMap((step, index) => {
      const [their, our] = [theirs, ours].map(({ answers }) => inOneOrder(answers[index]))
      return their === our ? [] : [`${JSON.stringify(step)}\n  theirs ${their}\n  ours   ${our}`]
    })
  }

  /** Says it to theirs (0) or ours (1) alone; `sameAlone` compares what both have said since. */
  async alone(side: 0 | 1, steps: readonly Step[]): Promise<void> {
    const { answers, events } = await converse(this.#sides[side], steps)
    this.#saidAlone[side].push(answers, events)
  }

  sameAlone(): void {
    const [theirs, ours] = this.#saidAlone.map((said) => said.splice(0))
    expect(ours).toEqual(theirs)
  }

  /** Ends both daemons and compares an image of theirs with ours. */
  async sameImages(...names: readonly string[]): Promise<void> {
    await this[Symbol.asyncDispose]()
    for (const name of names) {
      const files = this.folders.map((folder) => join(folder, name))
      execFileSync('qemu-img', ['compare', '-q', ...files])
      const [theirs, ours] = files.map(describeImage)
      expect(ours, name).toEqual(theirs)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const side of this.#sides) await side[Symbol.asyncDispose]()
  }
}

async function converse(side: QmpTalk, steps: readonly Step[]): Promise<Record> {
  const answers: unknown[] = []
  const events: Message[] = []
  for (const step of steps) {
    if ('until' in step) {
      try {
        events.push(...(await untilStatus(side, step.until as string)))
      } catch (error) {
        throw new Error(`${side.process.spawnargs[0]}: ${JSON.stringify(answers.slice(-6))}`, {
          cause: error,
        })
      }
      continue
    }
    const said = await side.say(step as Message)
    events.push(...said.events)
    answers.push([JSON.stringify(step), inOrder(step as Message, normalised(said.replies))])
  }
  return { answers, events: events.filter((event) => !isDrain(event)).map(withoutTime) }
}

async function untilStatus(side: QmpTalk, status: string): Promise<Message[]> {
  const events: Message[] = []
  const deadline = performance.now() + 20_000
  for (;;) {
    const answers = await side.say(command('query-jobs'))
    events.push(...answers.events)
    const jobs = answers.replies[0].return as Message[]
    const there = jobs.some((job) => job.status === status)
    if (status === 'gone' ? jobs.length === 0 : there) return events
    if (performance.now() > deadline) {
      throw new Error(`no job is ${status}: ${JSON.stringify(jobs)} ${JSON.stringify(events)}`)
    }
  }
}

function describeImage(file: string): unknown {
  const text = execFileSync('qemu-img', ['info', '--output=json', file], { encoding: 'utf8' })
  const info = JSON.parse(text)
  return [
    info.format,
    info['virtual-size'],
    info['backing-filename'],
    info['backing-filename-format'],
  ]
}

function leaveOut(record: unknown, ignored: readonly string[]): unknown {
  return JSON.parse(
    JSON.stringify(record, (key, value) => (ignored.includes(key) ? undefined : value)),
  )
}
