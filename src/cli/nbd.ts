/** `varve nbd`: the command line of qemu-nbd. */
import { BlockError } from '../errors.ts'
import { inBackground, reportRunning, startInBackground } from './background.ts'
import type { CliIo, NamedCliIo } from './command.ts'
import { parseArguments } from './nbd/arguments.ts'
import { NbdFailure } from './nbd/failure.ts'
import { list } from './nbd/list.ts'
import { serve } from './nbd/serve.ts'
import { checkTlsArguments } from './nbd/tls-objects.ts'
import { usage } from './nbd/usage.ts'
import { objectTables } from './object-tables.ts'
import { programName, versionLine } from './program-name.ts'

/** Runs with the arguments behind `nbd`; resolves to the exit status. */
export async function run(args: string[], shared: CliIo): Promise<number> {
  // Not a copy: that would make the streams which nobody has asked for yet.
  const io: NamedCliIo = Object.assign(Object.create(shared), {
    program: programName('varve-nbd', shared),
    ...objectTables(),
  })
  try {
    return await dispatch(args, io)
  } catch (error) {
    return report(error, io)
  }
}

async function dispatch(args: readonly string[], io: NamedCliIo): Promise<number> {
  const settings = parseArguments(args, io)
  const background = inBackground(io)
  if (settings.mode === 'help') return print(io, usage(io.program))
  if (settings.mode === 'version') {
    const { version } = await import('./version.ts')
    return print(io, versionLine(io.program, 'qemu-nbd', version, ''))
  }
  checkTlsArguments(settings)
  if (settings.mode === 'list') return await list(settings, io)
  if (settings.fork && !background) return await startInBackground('nbd', args, io)
  return await serve(settings, io, background ? reportRunning : () => {})
}

function print(io: NamedCliIo, text: string): number {
  io.stdout.write(text)
  return 0
}

function report(error: unknown, io: NamedCliIo): number {
  if (!(error instanceof NbdFailure || error instanceof BlockError)) throw error
  io.stderr.write(`${io.program}: ${error.message}\n${hintOf(error, io)}`)
  return 1
}

function hintOf(error: NbdFailure | BlockError, io: NamedCliIo): string {
  if (!(error instanceof NbdFailure) || error.hint === 'none') return ''
  const prefix = error.hint === 'named' ? `${io.program}: ` : ''
  return `${prefix}Try \`${io.program} --help' for more information.\n`
}
