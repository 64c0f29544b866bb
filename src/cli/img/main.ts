/** `varve img`: the commands of qemu-img, each in its own file, loaded when asked for. */
import { BlockError, firstFailure } from '../../errors.ts'
import type { NamedIo, PlainCommand } from '../command.ts'
import { OptionParser } from '../getopt.ts'
import { objectTables } from '../object-tables.ts'
import { programName, versionLine } from '../program-name.ts'
import { CommandFailure, HelpRequest, messageOf, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'

/** The commands of qemu-img. */
const commands: Readonly<Record<string, () => Promise<ImgCommand>>> = {
  amend: async () => (await import('./amend.ts')).amend,
  bench: async () => (await import('./bench.ts')).bench,
  bitmap: async () => (await import('./bitmap.ts')).bitmap,
  check: async () => (await import('./check.ts')).check,
  commit: async () => (await import('./commit.ts')).commit,
  compare: async () => (await import('./compare.ts')).compare,
  convert: async () => (await import('./convert.ts')).convert,
  create: async () => (await import('./create.ts')).create,
  dd: async () => (await import('./dd.ts')).dd,
  info: async () => (await import('./info.ts')).info,
  map: async () => (await import('./map.ts')).map,
  measure: async () => (await import('./measure.ts')).measure,
  rebase: async () => (await import('./rebase.ts')).rebase,
  resize: async () => (await import('./resize.ts')).resize,
  snapshot: async () => (await import('./snapshot.ts')).snapshot,
}

/** Runs `varve img …`. Every failure ends as a message on standard error and a status. */
export const img: PlainCommand = async (args, shared) => {
  // Not a copy: that would make the streams which nobody has asked for yet.
  const io: NamedIo = Object.assign(Object.create(shared), {
    program: programName('varve-img', shared),
    ...objectTables(),
  })
  try {
    return await run(args, io)
  } catch (error) {
    if (!(error instanceof HelpRequest)) return report(firstFailure(error), io)
    if (error.message !== '') io.stderr.write(error.message)
    return await showHelp(io)
  }
}

async function run(args: readonly string[], io: NamedIo): Promise<number> {
  const [name, words] = splitStandardOptions(args)
  if (name === undefined || name === 'help') return await showHelp(io)
  if (name === 'version') {
    const { version } = await import('../version.ts')
    io.stdout.write(versionLine(io.program, 'qemu-img', version, 'version '))
    return 0
  }
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (load === undefined) throw usageFailure(`Command not found: ${name}`)
  const command = await load()
  return await command(words, io)
}

async function showHelp(io: NamedIo): Promise<number> {
  const { usage } = await import('./usage.ts')
  io.stdout.write(usage(io.program))
  return 0
}

/**
 * The options in front of the command. `help` and `version` stand for `-h` and `-V`. Tracing is
 * accepted: none of QEMU's trace events happens here.
 */
function splitStandardOptions(args: readonly string[]): [string | undefined, readonly string[]] {
  if (args.length === 0) throw usageFailure('Not enough arguments')
  const own = args.findIndex(
    (word, at) => !word.startsWith('-') && !['-T', '--trace'].includes(args[at - 1]),
  )
  const front = own < 0 ? args : args.slice(0, own)
  const parser = new OptionParser(front, 'hVT:', [
    { name: 'help', as: 'h' },
    { name: 'version', as: 'V' },
    { name: 'trace', argument: 'required', as: 'T' },
  ])
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') {
      const problem = option.reason === 'missing-argument' ? 'missing argument for' : 'unrecognized'
      throw usageFailure(`${problem} option '${parser.current ?? 'img'}'`)
    }
    if (option.name === 'h') return ['help', []]
    if (option.name === 'V') return ['version', []]
  }
  return own < 0 ? [undefined, []] : [args[own], args.slice(own + 1)]
}

/** Prints what ended a command, as one line unless the message has hints of its own. */
function report(error: unknown, io: NamedIo): number {
  if (error instanceof CommandFailure) {
    const hint = error.hint ? `\nTry '${io.program} --help' for more information` : ''
    if (error.message !== '') io.stderr.write(`${io.program}: ${error.message}${hint}\n`)
    return error.status
  }
  if (!(error instanceof BlockError)) throw error
  io.stderr.write(`${io.program}: ${messageOf(error)}\n`)
  return 1
}
