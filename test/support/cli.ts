/** Runs a command of the CLI in this process, with its streams in memory. */
import { Readable, Writable } from 'node:stream'
import type { CliIo, Command } from '../../src/cli/command.ts'

export interface CliOutcome {
  readonly status: number
  readonly stdout: Buffer
  readonly stderr: string
}

export async function runCommand(
  command: Command,
  args: readonly string[],
  given: Partial<CliIo> & { readonly input?: Uint8Array } = {},
): Promise<CliOutcome> {
  const stdout = new Collector()
  const stderr = new Collector()
  const io: CliIo = {
    stdin: Readable.from(given.input === undefined ? [] : [given.input]),
    stdout,
    stderr,
    env: {},
    cwd: process.cwd(),
    ...given,
  }
  const status = await command([...args], io)
  return { status, stdout: stdout.bytes, stderr: stderr.bytes.toString() }
}

class Collector extends Writable {
  readonly #parts: Buffer[] = []

  get bytes(): Buffer {
    return Buffer.concat(this.#parts)
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.#parts.push(Buffer.from(chunk))
    done()
  }
}
