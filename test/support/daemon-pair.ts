/** A `QmpPair` that is spoken to one command at a time, and has guests: qemu-io over NBD. */
import { execFile } from 'node:child_process'
import { cpSync } from 'node:fs'
import { expect } from 'vitest'
import { peer } from '../peers.ts'
import { QmpPair } from './qmp-pair.ts'
import type { Message } from './qmp-talk.ts'

export const storageDaemon = peer('qemu-storage-daemon', 'qemu-io', 'qemu-img')

export class DaemonPair implements AsyncDisposable {
  readonly folders: { readonly ours: string; readonly theirs: string }
  readonly #pair: QmpPair
  /** Since they were last compared. */
  readonly #events: readonly [Message[], Message[]] = [[], []]

  /** `seed` is a folder of files that both begin with. Both have an NBD server at `nbd.sock`. */
  static async start(folder: string, seed?: string): Promise<DaemonPair> {
    const prepare = (own: string) => {
      if (seed) cpSync(seed, own, { recursive: true })
    }
    const pair = await QmpPair.start(folder, storageDaemon.path as string, prepare)
    const daemons = new DaemonPair(pair)
    const addr = { type: 'unix', data: { path: 'nbd.sock' } }
    await daemons.same('nbd-server-start', { addr })
    return daemons
  }

  private constructor(pair: QmpPair) {
    this.#pair = pair
    const [theirs, ours] = pair.folders
    this.folders = { ours, theirs }
  }

  /** Sends a command to both and expects the same answer, or what `view` makes of it. */
  async same(
    execute: string,
    args: Message = {},
    view: (answer: Message) => unknown = (answer) => answer,
  ): Promise<Message> {
    const message = { execute, arguments: args }
    const answers = await this.#pair.both(message)
    const [theirs, ours] = answers.map(({ replies }) => replies.map(view))
    expect(ours, `answer to ${JSON.stringify(message)}`).toEqual(theirs)
    for (const [side, { events }] of answers.entries()) this.#events[side].push(...events)
    return answers[1].replies[0]
  }

  /** Expects the same events, without their times, since the last call. */
  async sameEvents(): Promise<Message[]> {
    // What was sent before an answer has come with it.
    await this.same('query-version', {}, () => undefined)
    const [theirs, ours] = this.#events.map((events) =>
      events.splice(0).map(({ event, data }): Message => ({ event, data })),
    )
    expect(ours).toEqual(theirs)
    return ours
  }

  /** Exports a node of both, writable. */
  async export(node: string): Promise<void> {
    const args = { type: 'nbd', id: `${node}-export`, 'node-name': node, writable: true }
    await this.same('block-export-add', args)
  }

  /** Lets a guest of each do the same, and expects it to see the same. */
  async guest(node: string, lines: readonly string[]): Promise<string> {
    const [ours, theirs] = await Promise.all(
      [this.folders.ours, this.folders.theirs].map((folder) => guestIn(folder, node, lines)),
    )
    expect(ours, lines.join('; ')).toBe(theirs)
    return ours
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pair[Symbol.asyncDispose]()
  }
}

function guestIn(folder: string, node: string, lines: readonly string[]): Promise<string> {
  const commands = lines.flatMap((line) => ['-c', line])
  const uri = `nbd+unix:///${node}?socket=nbd.sock`
  const args = ['-t', 'writeback', '-f', 'raw', ...commands, uri]
  return new Promise((resolve) => {
    execFile(
      'qemu-io',
      args,
      { cwd: folder, timeout: 60_000, maxBuffer: 2 ** 26 },
      (_error, stdout, stderr) => {
        const text = `${stdout}${stderr}`
        resolve(text.replaceAll(/(?:\d\d\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \(.*\)/g, 'TIME'))
      },
    )
  })
}
