/**
 * `varve io`: qemu-io's command line. Commands come from `-c` or, one a line, from standard input;
 * they run one after the other, whatever becomes of the one before, and the status is 1 when any
 * of them failed.
 */
import { createInterface } from 'node:readline'
import { BlockError, firstFailure } from '../errors.ts'
import type { NamedIo, PlainIo } from './command.ts'
import { OptionParser } from './getopt.ts'
import { showBreakpoints } from './io/breakpoints.ts'
import { commands } from './io/command-table.ts'
import { openImageIn } from './io/control.ts'
import { type ImageSettings, settingsFromOptions } from './io/image.ts'
import { CommandError } from './io/outcome.ts'
import { runLine, Session } from './io/session.ts'
import { usage } from './io/usage.ts'
import { addImageObject } from './object-option.ts'
import { objectTables } from './object-tables.ts'
import { programName, versionLine } from './program-name.ts'
import { version } from './version.ts'

/** As qemu-io has it, whatever the program is called: scripts wait for it. */
const prompt = 'qemu-io> '

const shortOptions = 'hVc:d:f:rsnCmki:t:T:U'
const longOptions = [
  { name: 'help', as: 'h' },
  { name: 'version', as: 'V' },
  { name: 'cmd', argument: 'required', as: 'c' },
  { name: 'format', argument: 'required', as: 'f' },
  { name: 'read-only', as: 'r' },
  { name: 'snapshot', as: 's' },
  { name: 'nocache', as: 'n' },
  { name: 'copy-on-read', as: 'C' },
  { name: 'misalign', as: 'm' },
  { name: 'native-aio', as: 'k' },
  { name: 'aio', argument: 'required', as: 'i' },
  { name: 'discard', argument: 'required', as: 'd' },
  { name: 'cache', argument: 'required', as: 't' },
  { name: 'trace', argument: 'required', as: 'T' },
  { name: 'object', argument: 'required' },
  { name: 'image-opts' },
  { name: 'force-share', as: 'U' },
] as const

/** Runs `varve io` with the words behind its name; resolves to the exit status. */
export async function run(args: string[], cli: PlainIo): Promise<number> {
  const io = named(cli)
  try {
    const line = parseCommandLine(args, io)
    return typeof line === 'number' ? line : await runSession(line, io)
  } catch (thrown) {
    const error = firstFailure(thrown)
    if (!(error instanceof CommandError || error instanceof BlockError)) throw error
    const prefix = error instanceof BlockError ? `${io.program}: ` : ''
    if (error.message !== '') io.stderr.write(`${prefix}${error.message}\n`)
    return 1
  }
}

/** A spread would touch `stdin`, which costs time where nobody reads it. */
function named(cli: PlainIo): NamedIo {
  const { secrets, throttleGroups, tls } = objectTables()
  return Object.create(cli, {
    program: { value: programName('varve-io', cli) },
    secrets: { value: secrets },
    throttleGroups: { value: throttleGroups },
    tls: { value: tls },
  }) as NamedIo
}

interface CommandLine {
  readonly commands: readonly string[]
  readonly misalign: boolean
  readonly imageOpts: boolean
  /** Undefined: no image is opened to begin with. */
  readonly image?: ImageSettings
}

/** The exit status when there is nothing more to do. */
function parseCommandLine(args: readonly string[], io: NamedIo): CommandLine | number {
  const parser = new OptionParser(args, shortOptions, longOptions)
  const options = new Map<string, string>()
  const lines: string[] = []
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') {
      io.stderr.write(`${io.program}: ${option.message}\n`)
      io.stdout.write(usage(io.program))
      return 1
    }
    const { name, argument = '' } = option
    if (name === 'c') lines.push(argument)
    else if (name === 'h') return print(io, usage(io.program))
    else if (name === 'V') return print(io, versionLine(io.program, 'qemu-io', version, 'version '))
    else accept(name, argument, options, io)
  }
  if (parser.rest.length > 1) {
    io.stdout.write(usage(io.program))
    return 1
  }
  return {
    commands: lines,
    misalign: options.has('m'),
    imageOpts: options.has('image-opts'),
    image: imageOf(parser.rest[0], options, io),
  }
}

function accept(name: string, argument: string, options: Map<string, string>, io: NamedIo): void {
  if (name === 'object') {
    addImageObject(argument, io)
    return
  }
  // Tracing is accepted: none of QEMU's trace events happens here.
  if (name === 'T') return
  // Nothing takes that back.
  if (name === 'i' && argument === 'native') options.set('k', '')
  options.set(name, argument)
  // Of the options for one thing, the last one counts.
  if (name === 'n') options.set('t', 'none')
  settingsFromOptions(options, io)
}

function imageOf(
  filename: string | undefined,
  options: ReadonlyMap<string, string>,
  io: NamedIo,
): ImageSettings | undefined {
  const imageOpts = options.has('image-opts')
  if (imageOpts && options.has('f')) throw failure('--image-opts and -f are mutually exclusive', io)
  if (filename === undefined) return undefined
  return { ...settingsFromOptions(options, io), filename, imageOpts, format: options.get('f') }
}

function print(io: NamedIo, text: string): number {
  io.stdout.write(text)
  return 0
}

function failure(message: string, { program }: NamedIo): CommandError {
  return new CommandError(`${program}: ${message}`, 'stderr')
}

async function runSession(line: CommandLine, io: NamedIo): Promise<number> {
  await using session = new Session(io, commands, line)
  const showNoMore = showBreakpoints((text) => io.stdout.write(text))
  try {
    if (line.image) await openImageIn(session, line.image)
    const status =
      line.commands.length > 0
        ? await runAll(line.commands, session)
        : await runInteractively(io, session)
    await session.close()
    return status
  } finally {
    showNoMore()
  }
}

async function runAll(lines: readonly string[], session: Session): Promise<number> {
  let status = 0
  for (const line of lines) {
    if (session.ended) break
    if (!(await runLine(line, session))) status = 1
  }
  return status
}

async function runInteractively(io: NamedIo, session: Session): Promise<number> {
  const terminal = 'isTTY' in io.stdin && io.stdin.isTTY === true
  const reader = createInterface({
    input: io.stdin,
    ...(terminal ? { output: process.stdout, prompt } : {}),
    terminal,
  })
  const ask = () => {
    if (!terminal) io.stdout.write(prompt)
    io.stdout.flush?.()
    if (terminal) reader.prompt()
  }
  let status = 0
  ask()
  try {
    for await (const line of reader) {
      if (!(await runLine(line, session))) status = 1
      if (session.ended) break
      ask()
    }
  } finally {
    reader.close()
  }
  return status
}
