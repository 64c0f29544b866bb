/** `varve vma`: the command line of the `vma` tool, and some more. */
import { printable } from '../archive/vma/names.ts'
import { BlockError } from '../errors.ts'
import type { CliIo } from './command.ts'
import { configCommand } from './vma/config.ts'
import { createCommand } from './vma/create.ts'
import { extractCommand } from './vma/extract.ts'
import { listCommand } from './vma/list.ts'
import { print, UsageError } from './vma/support.ts'
import { verifyCommand } from './vma/verify.ts'

const usage = `usage: vma command [command options]

vma list <filename> [--json]
vma config <filename> [-c config] [--json]
vma create <filename> [-v] [-c config]... [-d format=<format>:[<device name>=]<path>]... [--reproducible]
vma extract <filename> [-v] [-d <drive-list>] [-r <fifo>] [--keep] <targetdir>
vma verify <filename> [-v] [--json]

<filename> may be - for standard input (output for create); .zst and .gz are compressed archives.
`

const commands: Readonly<Record<string, (args: string[], io: CliIo) => Promise<number | void>>> = {
  list: listCommand,
  config: configCommand,
  create: createCommand,
  extract: extractCommand,
  verify: verifyCommand,
}

/** Runs `varve vma` with the arguments behind `vma`; resolves to the exit status. */
export async function run(args: string[], io: CliIo): Promise<number> {
  const [name = '', ...rest] = args
  try {
    if (['help', '--help', '-h'].includes(name)) {
      await print(io.stdout, usage)
      return 0
    }
    if (!Object.hasOwn(commands, name)) {
      throw new UsageError(name === '' ? 'a command is needed' : `unknown command '${name}'`)
    }
    return (await commands[name](rest, io)) ?? 0
  } catch (error) {
    const text = io.signal?.aborted ? 'interrupted' : sentence(error)
    await print(io.stderr, `vma: ${text}\n`).catch(() => {})
    if (error instanceof UsageError) await print(io.stderr, usage).catch(() => {})
    return 1
  }
}

/** One line, whatever it was. */
function sentence(error: unknown): string {
  if (error instanceof UsageError || error instanceof BlockError) return oneLine(error.message)
  return oneLine(error instanceof Error ? error.message : String(error))
}

function oneLine(text: string): string {
  return printable(text.replaceAll(/\s*\n\s*/g, ' '))
}
