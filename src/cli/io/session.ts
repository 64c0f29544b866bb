/** What the commands of one run share: the open image, requests in flight, where output goes. */
import { performance } from 'node:perf_hooks'
import type { NamedIo } from '../command.ts'
import type { OpenedImage } from './image.ts'
import { CommandError, FatalError, SynopsisRequest } from './outcome.ts'

export interface IoCommand {
  readonly name: string
  readonly alias?: string
  /** As the synopsis shows them. */
  readonly arguments?: string
  readonly summary: string
  /** What `help NAME` says below the synopsis. */
  readonly manual?: string
  /** Number of words behind the name. */
  readonly least: number
  readonly most: number
  /** Refused on an image that is open for reading only. */
  readonly writes?: boolean
  /** Needs to be permitted more than other writers are. */
  readonly resizes?: boolean
  /** Can be used while no image is open. */
  readonly withoutImage?: boolean
  /** `words` begin with the command's name. Throws `CommandError`. */
  run(words: readonly string[], session: Session): void | Promise<void>
}

export class Session implements AsyncDisposable {
  readonly io: NamedIo
  readonly commands: readonly IoCommand[]
  /** `-m`: buffers are put where O_DIRECT does not want them. */
  readonly misalign: boolean
  /** `--image-opts`: names of images are option strings. */
  readonly imageOpts: boolean
  #image: OpenedImage | undefined
  readonly #inFlight = new Set<Promise<void>>()
  /** Set by `quit`. */
  ended = false

  constructor(
    io: NamedIo,
    commands: readonly IoCommand[],
    { misalign, imageOpts }: { readonly misalign: boolean; readonly imageOpts: boolean },
  ) {
    this.imageOpts = imageOpts
    this.io = io
    this.commands = commands
    this.misalign = misalign
  }

  /** The open image. Commands that need one are not run without. */
  get image(): OpenedImage {
    if (!this.#image) throw new TypeError('no image is open')
    return this.#image
  }

  get hasImage(): boolean {
    return this.#image !== undefined
  }

  adopt(image: OpenedImage): void {
    this.#image = image
  }

  print(text: string): void {
    this.io.stdout.write(text)
  }

  /** One line on standard error. */
  complain(line: string): void {
    this.io.stderr.write(`${line}\n`)
  }

  /** Leaves work to itself; `settled` waits for it. It has to deal with its own errors. */
  start(work: Promise<void>): void {
    const tracked = work.finally(() => this.#inFlight.delete(tracked))
    this.#inFlight.add(tracked)
  }

  /** Waits for all requests in flight. */
  async settled(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight)
  }

  /** Closes the image after what is in flight. What cannot be written any more is thrown. */
  async close(): Promise<void> {
    await this.settled()
    const image = this.#image
    this.#image = undefined
    await image?.[Symbol.asyncDispose]()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** A buffer for one request. */
  buffer(length: number): Uint8Array {
    const shift = this.misalign ? misalignment : 0
    return Buffer.alloc(length + shift).subarray(shift)
  }
}

const misalignment = 16

/** Runs one line. Whatever goes wrong has been printed when this returns false. */
export async function runLine(line: string, session: Session): Promise<boolean> {
  const words = line.split(' ').filter((word) => word !== '')
  if (words.length === 0) return true
  const command = session.commands.find(({ name, alias }) => [name, alias].includes(words[0]))
  if (!command) {
    session.complain(`command "${words[0]}" not found`)
    return false
  }
  try {
    admit(command, words, session)
    await command.run(words, session)
    return true
  } catch (error) {
    if (error instanceof FatalError) session.ended = true
    if (error instanceof SynopsisRequest) session.print(synopsis(command))
    else if (!(error instanceof CommandError)) throw error
    else if (error.stream === 'stderr') session.complain(error.message)
    else if (error.message !== '') session.print(`${error.message}\n`)
    return false
  }
}

/** Whether the command can be run with so many arguments at this moment. */
function admit(command: IoCommand, words: readonly string[], session: Session): void {
  if (!command.withoutImage && !session.hasImage) {
    throw new CommandError(`no file open, try 'help open'`, 'stderr')
  }
  const { name, least, most } = command
  const count = words.length - 1
  if (count < least || count > most) {
    throw new CommandError(
      `bad argument count ${count} to ${words[0]}, expected ${expectation(least, most)}`,
      'stderr',
    )
  }
  const { medium } = session.hasImage ? session.image.node.layer : {}
  if (command.writes && medium?.wasInserted === false) {
    throw command.resizes
      ? new CommandError(`${session.io.program}: No medium inserted`, 'stderr')
      : new CommandError(`${name} failed: No medium found`)
  }
  if (command.writes && session.image.readOnly) {
    throw new CommandError(`${session.io.program}: Block node is read-only`, 'stderr')
  }
}

function expectation(least: number, most: number): string {
  if (most === Number.POSITIVE_INFINITY) return `at least ${least} arguments`
  return least === most ? `${least} arguments` : `between ${least} and ${most} arguments`
}

/** Seconds that `work` takes. */
export async function timed(work: () => void | Promise<void>): Promise<number> {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

/** `name arguments -- summary` */
export function synopsis(command: IoCommand): string {
  const words = [command.name, command.arguments].filter((word) => word !== undefined)
  return `${words.join(' ')} -- ${command.summary}\n`
}
