/**
 * The same conversation with Debian's qemu-storage-daemon and with ours, each in a folder of its
 * own with the same files; guests are qemu-io over NBD.
 */
import { execFile } from 'node:child_process'
import { cpSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { peer } from '../peers.ts'
import { type Message, QmpTalk, varveDaemon } from './qmp-talk.ts'

export const storageDaemon = peer('qemu-storage-daemon', 'qemu-io', 'qemu-img')

export class DaemonPair implements AsyncDisposable {
  readonly folders: { readonly ours: string; readonly theirs: string }
  readonly #ours: QmpTalk
  readonly #theirs: QmpTalk

  private constructor(folders: DaemonPair['folders'], ours: QmpTalk, theirs: QmpTalk) {
    this.folders = folders
    this.#ours = ours
    this.#theirs = theirs
  }

  /** `seed` is a folder of files that both begin with. Both have an NBD server at `nbd.sock`. */
  static async start(folder: string, seed?: string): Promise<DaemonPair> {
    const folders = { ours: join(folder, 'varve'), theirs: join(folder, 'qemu') }
    for (const own of Object.values(folders)) {
      mkdirSync(own, { recursive: true })
      if (seed) cpSync(seed, own, { recursive: true })
    }
    const theirs = await QmpTalk.start([storageDaemon.path as string], folders.theirs)
    const ours = await QmpTalk.start(varveDaemon, folders.ours)
    const pair = new DaemonPair(folders, ours, theirs)
    const addr = { type: 'unix', data: { path: 'nbd.sock' } }
    for (const [name, args] of [['qmp_capabilities'], ['nbd-server-start', { addr }]] as const) {
      await pair.same(name, args)
    }
    return pair
  }

  /** Sends a command to both and expects the same answer, or what `view` makes of it. */
  async same(
    execute: string,
    args: Message = {},
    view: (answer: Message) => unknown = (answer) => answer,
  ): Promise<Message> {
    const message = { execute, arguments: args }
    const [theirs, ours] = await Promise.all([this.#theirs.say(message), this.#ours.say(message)])
    const seen = (replies: readonly Message[]) => replies.map(view)
    expect(seen(ours.replies), `answer to ${JSON.stringify(message)}`).toEqual(seen(theirs.replies))
    this.#events.ours.push(...ours.events)
    this.#events.theirs.push(...theirs.events)
    return ours.replies[0]
  }

  readonly #events: { readonly ours: Message[]; readonly theirs: Message[] } = {
    ours: [],
    theirs: [],
  }

  /** Expects the same events, without their times, since the last call. */
  async sameEvents(): Promise<Message[]> {
    // What was sent before an answer has come with it.
    await this.same('query-version', {}, () => undefined)
    const seen = (events: Message[]) =>
      events.splice(0).map(({ event, data }): Message => ({ event, data }))
    const ours = seen(this.#events.ours)
    expect(ours).toEqual(seen(this.#events.theirs))
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
    await this.#ours[Symbol.asyncDispose]()
    await this.#theirs[Symbol.asyncDispose]()
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
