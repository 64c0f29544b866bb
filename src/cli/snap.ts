/** `varve snap`: the command line of qemu-snap, and some more. */
import { BlockError, firstFailure } from '../errors.ts'
import type { CliIo, NamedIo } from './command.ts'
import { parseArguments } from './snap/arguments.ts'
import { SnapFailure } from './snap/failure.ts'
import { usage } from './snap/usage.ts'

/** Runs with the arguments behind `snap`; resolves to the exit status. */
export async function run(args: string[], shared: CliIo): Promise<number> {
  const io: NamedIo = Object.assign(Object.create(shared), { program: 'varve-snap' })
  try {
    return await dispatch(args, io)
  } catch (thrown) {
    const error = firstFailure(thrown)
    if (io.signal?.aborted) {
      io.stderr.write(`${io.program}: interrupted\n`)
      return 130
    }
    if (!(error instanceof SnapFailure || error instanceof BlockError)) throw error
    const hint = error instanceof SnapFailure && error.hint
    io.stderr.write(`${io.program}: ${error.message}\n`)
    if (hint) io.stderr.write(`Try \`${io.program} --help' for more information.\n`)
    return 1
  }
}

async function dispatch(args: readonly string[], io: NamedIo): Promise<number> {
  const settings = await parsed(args, io)
  if (settings === 'help') {
    io.stdout.write(usage(io.program))
    return 0
  }
  if (settings === 'version') {
    const { version } = await import('./version.ts')
    io.stdout.write(`${io.program} ${version}\n`)
    return 0
  }
  switch (settings.command) {
    case 'save':
      return await (await import('./snap/save.ts')).save(settings, io)
    case 'load':
      return await (await import('./snap/load.ts')).load(settings, io)
    case 'take':
      return await (await import('./snap/take.ts')).take(settings, io)
    case 'resume':
      return await (await import('./snap/resume.ts')).resume(settings, io)
    case 'inspect':
      return await (await import('./snap/inspect.ts')).inspect(settings, io)
    case 'verify':
      return await (await import('./snap/inspect.ts')).verify(settings, io)
    case 'diff':
      return await (await import('./snap/inspect.ts')).diff(settings, io)
    case 'convert':
      return await (await import('./snap/convert.ts')).convert(settings, io)
  }
}

/** A QEMU that is already sending to a command that is misspelt must not be left standing. */
async function parsed(args: readonly string[], io: NamedIo) {
  try {
    return parseArguments(args)
  } catch (error) {
    if (args.includes('save')) {
      const { drainStandardInput } = await import('./snap/drain.ts')
      await drainStandardInput(io)
    }
    throw error
  }
}
