/** Random conversations with both daemons, each in its copy of the world, and what differs. */
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { command, type Message, QmpTalk, varveDaemon } from '../qmp-talk.ts'
import type { Random } from '../random.ts'
import { nextCommand } from './commands.ts'
import { imageDifference } from './images.ts'
import { Side } from './side.ts'
import { compareStep, type StepResult } from './step.ts'
import { emptyView, type View } from './world.ts'

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

/** Both daemons, in fresh copies of the world. */
class Conversation implements AsyncDisposable {
  readonly #folders: readonly string[]
  readonly #talks: readonly QmpTalk[]
  readonly #sides: readonly Side[]
  readonly #said: Message[] = []

  static async begin(setting: Setting): Promise<Conversation> {
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
    const conversation = new Conversation(folders, talks)
    for (const side of conversation.#sides) {
      await side.say(command('qmp_capabilities'))
      // `/objects` is not there in QEMU's daemon before somebody has asked for an object.
      await side.say(command('object-del', { id: 'no-such' }))
    }
    return conversation
  }

  private constructor(folders: readonly string[], talks: readonly QmpTalk[]) {
    this.#folders = folders
    this.#talks = talks
    this.#sides = talks.map((talk, index) => new Side(talk, folders[index]))
  }

  async say(message: Message): Promise<StepResult> {
    this.#said.push(message)
    return await compareStep(this.#sides[0], this.#sides[1], message, this.#said)
  }

  /** Ends both daemons, and compares what they leave. */
  async end(): Promise<Outcome> {
    const said = this.#said
    const ends = await Promise.all(this.#talks.map(ended))
    if (ends[0].status !== 0) return { said, theirEnd: 'ends badly' }
    if (ends[1].status !== 0) return { said, difference: `ours ended with ${ends[1].status}` }
    return { said, difference: imageDifference(this.#folders, said) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const talk of this.#talks) await talk[Symbol.asyncDispose]()
  }
}

/** Says `steps` up to the first that makes them differ. */
export async function replay(setting: Setting, steps: readonly Message[]): Promise<Outcome> {
  await using conversation = await Conversation.begin(setting)
  for (const [index, step] of steps.entries()) {
    const { difference, theirEnd } = await conversation.say(step)
    const ends = difference !== undefined || theirEnd !== undefined
    if (ends) return { said: steps.slice(0, index + 1), difference, theirEnd }
  }
  return await conversation.end()
}

/**
 * The conversation that follows from chance, with each difference in it. A command after which the
 * two are not in the same state is left out: all that was said before is said to new ones again.
 */
export async function* randomConversation(
  setting: Setting,
  random: Random,
  length: number,
): AsyncGenerator<Outcome> {
  let conversation = await Conversation.begin(setting)
  try {
    const kept: Message[] = []
    let view: View = emptyView
    for (let step = 0; step < length; step++) {
      const message = nextCommand(random, view, step)
      const result = await conversation.say(message)
      const { difference, theirEnd } = result
      if (difference !== undefined || theirEnd !== undefined) {
        yield { said: [...kept, message], difference, theirEnd }
      }
      if (result.view) {
        view = result.view
        if (difference === undefined) kept.push(message)
        continue
      }
      await conversation[Symbol.asyncDispose]()
      conversation = await Conversation.begin(setting)
      for (const each of kept) {
        const again = await conversation.say(each)
        if (again.difference !== undefined || !again.view) return
      }
    }
    yield await conversation.end()
  } finally {
    await conversation[Symbol.asyncDispose]()
  }
}

async function ended(talk: QmpTalk): Promise<{ status: number | null }> {
  return await talk.quit().catch(() => ({ status: -1 }))
}
