/**
 * `varve COMMAND …`, and the entry of `varve-img` and its kind, which put their command's name in
 * front. Only the command that is wanted gets loaded.
 */
import { enableCompileCache } from 'node:module'
import type { CliIo, Command, PlainCommand, PlainIo } from './command.ts'
import { DescriptorOutput } from './descriptor-output.ts'

// Compiled code is kept between runs: most of the time of a short command is start-up.
enableCompileCache?.()

/**
 * `plain`, as QEMU's tools: text that is written at once, and Ctrl-C ends the process.
 * `streams`: output is data that may be large, and Ctrl-C fires `CliIo.signal`.
 */
type Entry = { readonly summary: string } & (
  | { readonly io: 'plain'; readonly load: () => Promise<PlainCommand> }
  | { readonly io: 'streams'; readonly load: () => Promise<Command> }
)

/** A command a line; each is loaded when it is asked for. */
const commands: Readonly<Record<string, Entry>> = {
  backup: {
    summary: 'back up the disks of a running daemon, consistently, while guests write',
    load: async () => (await import('./backup.ts')).run,
    io: 'streams',
  },
  daemon: {
    summary: 'serve disks and back them up, as qemu-storage-daemon does',
    load: async () => (await import('./daemon.ts')).run,
    io: 'streams',
  },
  img: {
    summary: 'create, convert, compare, check and describe disk images, as qemu-img does',
    load: async () => (await import('./img/main.ts')).img,
    io: 'plain',
  },
  io: {
    summary: 'read, write and look into disk images by hand or by script, as qemu-io does',
    load: async () => (await import('./io.ts')).run,
    io: 'plain',
  },
  nbd: {
    summary: 'serve a disk image over NBD, as qemu-nbd does',
    load: async () => (await import('./nbd.ts')).run,
    io: 'streams',
  },
  restore: {
    summary: 'bring the disks of backups back',
    load: async () => (await import('./restore.ts')).run,
    io: 'streams',
  },
  snap: {
    summary: 'save and load the RAM of a running QEMU, as qemu-snap does',
    load: async () => (await import('./snap.ts')).run,
    io: 'streams',
  },
  vma: {
    summary: 'list, create, extract and verify VMA backup archives',
    load: async () => (await import('./vma.ts')).run,
    io: 'streams',
  },
}

async function run(args: string[], io: PlainIo): Promise<number> {
  const [name, ...rest] = args
  if (name === '--version' || name === '-V') {
    const { version } = await import('./version.ts')
    io.stdout.write(`varve ${version}\n`)
    return 0
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    io.stdout.write(usage())
    return 0
  }
  const entry = Object.hasOwn(commands, name ?? '') ? commands[name] : undefined
  if (!entry) {
    const problem = name === undefined ? 'no command given' : `unknown command '${name}'`
    io.stderr.write(`varve: ${problem}; 'varve --help' lists the commands\n`)
    return 1
  }
  if (entry.io === 'plain') return await (await entry.load())(rest, io)
  return await (await entry.load())(rest, streamsIo())
}

/** Names in a folder that somebody has removed lead nowhere; all others still do. */
function currentFolder(): string {
  try {
    return process.cwd()
  } catch {
    return '.'
  }
}

/** Node's streams cost start-up time, so they are made when somebody touches them. */
function plainIo(): PlainIo {
  const stdout = DescriptorOutput.stdout()
  // However it comes to that, as the library of C does it; a signal's end is sudden there, too.
  process.once('exit', () => stdout.flush())
  return {
    get stdin() {
      return process.stdin
    },
    stdout,
    stderr: new DescriptorOutput(2),
    env: process.env,
    cwd: currentFolder(),
  }
}

function streamsIo(): CliIo {
  const interrupt = new AbortController()
  const abort = () => interrupt.abort()
  process.once('SIGINT', abort)
  process.once('SIGTERM', abort)
  process.once('SIGHUP', abort)
  const { stdout, stderr, env } = process
  return {
    get stdin() {
      return process.stdin
    },
    stdout,
    stderr,
    env,
    cwd: currentFolder(),
    signal: interrupt.signal,
  }
}

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length))
  const lines = Object.entries(commands).map(
    ([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}\n`,
  )
  return (
    `usage: varve COMMAND [ARGUMENT]...\n\n${lines.join('')}\n` +
    `'varve COMMAND --help' says more about a command; 'varve --version' names the version.\n`
  )
}

/** Much works with an older Node, too; what does not shall say why. */
function explain(error: unknown): void {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 22 || (major === 22 && minor >= 15)) throw error
  const what = error instanceof Error ? error.message : String(error)
  const reason = `varve needs Node.js 22.15 or newer, and this is ${process.versions.node}`
  new DescriptorOutput(2).write(`varve: ${reason} (${what})\n`)
  process.exitCode = 1
}

// No `await` here: the tools are bundled as CommonJS, which starts faster and has none.
void run(process.argv.slice(2), plainIo()).then((status) => {
  process.exitCode = status
}, explain)
