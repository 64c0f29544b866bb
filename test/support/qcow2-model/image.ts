/** A qcow2 image in a folder of its own, and what is known of it besides the reference. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import type { Outcome } from '../../peers.ts'
import { runOurs, runTheirs } from '../img.ts'
import type { Kind } from './kind.ts'

/** Of all images that are encrypted, and of the older AES, whose key it is. */
export const password = 'open sesame'
const secret = ['--object', `secret,id=s,data=${password}`]

export class ImageFolder {
  readonly folder: string
  readonly kind: Kind
  /** What is known of the state of a machine, by offset. */
  state = new Map<number, number>()
  /** The same of each snapshot. */
  readonly states = new Map<string, Map<number, number>>()
  /**
   * The disk ends within a cluster where QEMU has cut it off, and shows, when QEMU makes it larger,
   * what it had there; of an encrypted data file, noise.
   */
  cutOff = false

  constructor(folder: string, kind: Kind) {
    this.folder = folder
    this.kind = kind
  }

  get path(): string {
    return join(this.folder, 'i')
  }

  /** For `--image-opts`. */
  get options(): string {
    const { encryption } = this.kind
    const key = encryption === 'none' ? '' : `,encrypt.format=${encryption},encrypt.key-secret=s`
    return `driver=qcow2,file.filename=i${key}`
  }

  read(name: string): Buffer {
    return readFileSync(join(this.folder, name))
  }

  store(name: string, bytes: Uint8Array): void {
    writeFileSync(join(this.folder, name), bytes)
  }

  /** Runs `varve img COMMAND … --image-opts …`. */
  ours(command: string, args: readonly string[] = [], after: readonly string[] = []) {
    return runOurs(this.folder, this.#words(command, args, after))
  }

  /** Runs `qemu-img` in the same way. */
  theirs(command: string, args: readonly string[] = [], after: readonly string[] = []) {
    return runTheirs(this.folder, this.#words(command, args, after))
  }

  /** Runs `qemu-io` with the commands. */
  theirIo(commands: readonly string[]): Promise<Outcome> {
    const words = commands.flatMap((command) => ['-c', command])
    const args = [...secret, '-d', 'unmap', ...words, '--image-opts', this.options]
    return runTheirs(this.folder, args, 'qemu-io')
  }

  #words(command: string, args: readonly string[], after: readonly string[]): string[] {
    return [command, ...secret, ...args, '--image-opts', this.options, ...after]
  }
}

/** Makes an image with either program. qemu-img sometimes cannot measure the time of PBKDF2. */
export async function createImage(
  { folder, kind }: ImageFolder,
  options: string,
  by: typeof runOurs,
): Promise<void> {
  const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, 'i', String(kind.size)]
  for (let attempt = 0; ; attempt++) {
    const outcome = await by(folder, args)
    if (outcome.stderr.includes('accurate CPU usage') && attempt < 30) continue
    return expectDone(outcome, args.join(' '))
  }
}

export function expectDone(outcome: Outcome, note: string): void {
  expect(outcome, note).toMatchObject({ status: 0, stderr: '' })
}
