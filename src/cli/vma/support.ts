/** What the `vma` commands share: arguments, output, file names, progress. */
import { isAbsolute, join } from 'node:path'
import type { Writable } from 'node:stream'
import { isVmstate, type StoredHeader } from '../../archive/vma/header.ts'
import { printable } from '../../archive/vma/names.ts'
import { VmaReader } from '../../archive/vma/reader.ts'
import type { RestoreProgress } from '../../archive/vma/restore.ts'
import { systemError } from '../../errors.ts'
import { hasProtocol } from '../../graph/filename.ts'
import type { CliIo } from '../command.ts'
import { type LongOption, OptionParser } from '../getopt.ts'
import { threeDigits } from '../three-digits.ts'

/** The command line makes no sense; the usage is shown. */
export class UsageError extends Error {}

export interface CommandLine {
  /** Whether an option was given. */
  has(name: string): boolean
  /** The arguments of an option that may be repeated. */
  all(name: string): readonly string[]
  /** The argument of an option; the last one counts. */
  last(name: string): string | undefined
  readonly positionals: readonly string[]
}

/** Options as getopt takes them, anywhere, and exactly the `names` of other arguments. */
export function parseCommandLine(
  args: readonly string[],
  short: string,
  long: readonly LongOption[],
  names: readonly string[],
): CommandLine {
  const parser = new OptionParser(args, short, long)
  const given: { readonly name: string; readonly argument?: string }[] = []
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') throw new UsageError(option.message)
    given.push(option)
  }
  const positionals = parser.rest
  if (positionals.length < names.length) {
    throw new UsageError(`<${names[positionals.length]}> is missing`)
  }
  if (positionals.length > names.length) {
    throw new UsageError(`unexpected argument '${positionals[names.length]}'`)
  }
  const all = (name: string) =>
    given.filter((option) => option.name === name).map(({ argument }) => argument ?? '')
  return {
    has: (name) => given.some((option) => option.name === name),
    all,
    last: (name) => all(name).at(-1),
    positionals,
  }
}

/** Writes and waits until it is written. */
export async function print(stream: Writable, text: string | Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error) => reject(systemError(error, 'Could not write the output'))
    stream.once('error', failed)
    stream.write(text, (error) => {
      if (error) failed(error)
      else resolve(void stream.off('error', failed))
    })
  })
}

/** A file name as the user meant it; messages keep it as it was typed where that is the same. */
export function pathOf(name: string, io: CliIo): string {
  if (isAbsolute(name) || hasProtocol(name) || io.cwd === process.cwd()) return name
  return join(io.cwd, name)
}

/** The same for an archive, whose name is a path whatever it looks like. */
export function archivePath(name: string, io: CliIo): string {
  return isAbsolute(name) || io.cwd === process.cwd() ? name : join(io.cwd, name)
}

/** Opens an archive named on the command line; `-` is standard input. */
export async function openArchive(name: string, io: CliIo): Promise<VmaReader> {
  const { signal } = io
  if (name === '-') return await VmaReader.open('-', { stdin: io.stdin, signal })
  return await VmaReader.open(archivePath(name, io), { signal })
}

/** The lines of `vma list`. */
export function listOf(header: StoredHeader): string {
  const lines = [
    ...header.configs.map(({ name, data }) => `CFG: size: ${data.length} name: ${printable(name)}`),
    ...header.devices.map((device) =>
      isVmstate(device)
        ? `VMSTATE: dev_id=${device.id} memory: ${device.size}`
        : `DEV: dev_id=${device.id} size: ${device.size} devname: ${printable(device.name)}`,
    ),
    `CTIME: ${formatTime(header.ctime)}`,
  ]
  return lines.map((line) => `${line}\n`).join('')
}

const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat']
const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** Local time as `ctime` writes it: `Fri Nov 20 15:23:31 2026`. */
export function formatTime(seconds: number): string {
  const time = new Date(seconds * 1000)
  if (Number.isNaN(time.getTime())) return `${seconds}`
  const two = (number: number) => String(number).padStart(2, '0')
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')
  const day = String(time.getDate()).padStart(2)
  return `${days[time.getDay()]} ${months[time.getMonth()]} ${day} ${clock} ${time.getFullYear()}`
}

/** Percentage, 0 of nothing. */
export function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : (100 * part) / whole
}

/** Prints a line for each percent, as `extract` and `verify` do. */
export class ReadProgress {
  readonly #out: Writable
  readonly #total: number
  readonly #start = Date.now()
  #bytes = 0
  #zeroBytes = 0
  #blockZeroes = 0
  #shown = 0

  constructor(out: Writable, total: number) {
    this.#out = out
    this.#total = total
  }

  async add({ bytes, zeroBytes, blockZeroes }: RestoreProgress): Promise<void> {
    this.#bytes += bytes
    this.#zeroBytes += zeroBytes
    this.#blockZeroes += blockZeroes
    const now = Math.min(100, Math.floor(percent(this.#bytes, this.#total)))
    if (now === this.#shown) return
    this.#shown = now
    const seconds = Math.floor((Date.now() - this.#start) / 1000)
    await print(
      this.#out,
      `progress ${now}% (read ${this.#bytes} bytes, duration ${seconds} sec)\n`,
    )
  }

  get totals() {
    return {
      bytes: this.#bytes,
      sparseBytes: this.#zeroBytes,
      blockZeroes: this.#blockZeroes,
      seconds: (Date.now() - this.#start) / 1000,
    }
  }

  async printTotals(): Promise<void> {
    const stored = this.#bytes - this.#zeroBytes
    const sparse = threeDigits(percent(this.#zeroBytes, this.#bytes))
    const saved = threeDigits(percent(this.#blockZeroes, stored + this.#blockZeroes))
    await print(
      this.#out,
      `total bytes read ${this.#bytes}, sparse bytes ${this.#zeroBytes} (${sparse}%)\n` +
        `space reduction due to 4K zero blocks ${saved}%\n`,
    )
  }
}
