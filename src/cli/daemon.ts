/** `varve daemon`: the command line of qemu-storage-daemon. */
import { StorageDaemon } from '../daemon/storage-daemon.ts'
import { BlockError } from '../errors.ts'
import { inBackground, reportRunning, startInBackground } from './background.ts'
import type { CliIo, NamedCliIo } from './command.ts'
import { compileLater } from './compile-later.ts'
import { reportCorruption } from './corruption-report.ts'
import { HelpAsked } from './daemon/help.ts'
import { type Step, steps } from './daemon/options.ts'
import { Pidfile } from './daemon/pidfile.ts'
import { usage } from './daemon/usage.ts'
import { OptionParser } from './getopt.ts'
import { probedRawWarning } from './probed-raw.ts'
import { programName, versionLine } from './program-name.ts'
import { reportRefusedClients } from './refused-clients.ts'

// A job's writes to a slow disk must not take all threads from guests of other disks. Node's four are
// made when the first is needed, and it looks here for their number then.
process.env.UV_THREADPOOL_SIZE ??= '16'

const longOptions = [
  ...Object.keys(steps).map((name) => ({
    name,
    argument: 'required' as const,
    as: name === 'trace' ? 'T' : name,
  })),
  { name: 'daemonize' },
  { name: 'help', as: 'h' },
  { name: 'pidfile', argument: 'required' as const },
  { name: 'version', as: 'V' },
]

interface GivenStep {
  readonly option: string
  readonly argument: string
  /** As messages repeat it. */
  readonly spelled: string
}

interface Plan {
  readonly answer?: 'help' | 'version'
  /** In the order given, each with what messages call it. */
  readonly steps: readonly GivenStep[]
  readonly daemonize: boolean
  readonly pidfile?: string
}

/** A message that goes out as it is. */
class CommandLineError extends Error {}

/** Runs with the arguments behind `daemon`; resolves to the exit status. */
export async function run(args: string[], shared: CliIo): Promise<number> {
  const program = programName('varve-storage-daemon', shared)
  const io: NamedCliIo = Object.assign(Object.create(shared), { program })
  try {
    const plan = readArguments(args)
    if (plan.answer !== undefined) return await answer(plan.answer, io)
    const background = inBackground(io)
    if (plan.daemonize && !background) return await startInBackground('daemon', args, io)
    return await serve(plan, io, background)
  } catch (error) {
    if (error instanceof HelpAsked) {
      io.stdout.write(error.text)
      return error.status
    }
    if (!(error instanceof CommandLineError || error instanceof BlockError)) throw error
    io.stderr.write(`${io.program}: ${error.message}\n`)
    return 1
  }
}

function readArguments(args: readonly string[]): Plan {
  const parser = new OptionParser(args, 'hT:V', longOptions)
  const given: GivenStep[] = []
  let answer: Plan['answer']
  let daemonize = false
  let pidfile: string | undefined
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') throw new CommandLineError(option.message)
    const { name, argument = '' } = option
    if (name === 'h') answer ??= 'help'
    else if (name === 'V') answer ??= 'version'
    else if (name === 'daemonize') daemonize = true
    else if (name === 'pidfile') pidfile = argument
    else {
      const option = name === 'T' ? 'trace' : name
      given.push({ option, argument, spelled: parser.spelled })
    }
  }
  const [stray] = parser.rest
  if (stray !== undefined) throw new CommandLineError(`${stray}: Unexpected argument`)
  return { answer, steps: given, daemonize, pidfile }
}

async function answer(what: NonNullable<Plan['answer']>, io: NamedCliIo): Promise<number> {
  if (what === 'help') io.stdout.write(usage(io.program))
  else {
    const { version } = await import('./version.ts')
    io.stdout.write(versionLine(io.program, 'qemu-storage-daemon', version, 'version '))
  }
  return 0
}

/** Milliseconds; what a timer can hold. */
const longestInterval = 2 ** 31 - 1

async function serve(plan: Plan, io: NamedCliIo, background: boolean): Promise<number> {
  compileLater()
  const stopped = abortion(io.signal)
  let pidfile: Pidfile | undefined
  reportCorruption(io)
  const reportNoMore = reportRefusedClients(io)
  const stdio = () => {
    if (!background) return { input: io.stdin, output: io.stdout }
    throw new BlockError('INVALID_ARGUMENT', 'cannot use stdio with -daemonize')
  }
  const onProbedRaw = (filename: string) => void io.stderr.write(probedRawWarning(filename))
  const daemon = new StorageDaemon({ stdio, onProbedRaw })
  // Without monitors and exports nothing else would: whoever holds images waits for a signal.
  const alive = setInterval(() => {}, longestInterval)
  try {
    // A step may wait, for a client or a peer; a signal ends that wait.
    await Promise.race([takeSteps(daemon, plan, io), daemon.quitting, stopped])
    if (plan.pidfile !== undefined && !io.signal?.aborted) {
      pidfile = await Pidfile.write(plan.pidfile)
    }
    if (background) reportRunning()
    await Promise.race([daemon.quitting, stopped])
  } finally {
    clearInterval(alive)
    await daemon[Symbol.asyncDispose]()
    await pidfile?.[Symbol.asyncDispose]()
    reportNoMore()
  }
  return 0
}

async function takeSteps(daemon: StorageDaemon, plan: Plan, io: NamedCliIo): Promise<void> {
  for (const { option, argument, spelled } of plan.steps) {
    try {
      const step: Step = steps[option](argument)
      // Waiting for a monitor's client must not keep other monitors from working.
      if (option === 'chardev') await step(daemon, io, spelled)
      else await daemon.exclusively(() => step(daemon, io, spelled))
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      throw new CommandLineError(`${spelled}: ${error.message}`)
    }
  }
}

/** Settles when the signal fires. */
function abortion(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve()
    else signal?.addEventListener('abort', () => resolve(), { once: true })
  })
}
