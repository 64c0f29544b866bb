/** One command line for both daemons: what they print, how they end and, when they serve, what is there. */
import { execFile, execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../../src/cli/daemon.ts'
import { runCommand } from '../cli.ts'
import { inOneOrder, inOrder, normalised } from '../qmp-normal.ts'
import { command, QmpTalk, varveDaemon } from '../qmp-talk.ts'

/** Whoever waits for a client, or goes on, is told to end. */
const patienceMs = 4000

/** Ends every line that is taken: nobody has such a device. */
const end = ['--monitor', 'nobody']

const queries = [
  command('qmp_capabilities'),
  command('query-named-block-nodes', { flat: true }),
  command('query-block-exports'),
  command('query-chardev'),
  command('qom-list', { path: '/objects' }),
  command('nbd-server-stop'),
]

export class DaemonTrial {
  readonly #folder: string
  readonly #program: string

  constructor(folder: string, program: string) {
    this.#folder = folder
    this.#program = program
    mkdirSync(this.#world, { recursive: true })
    writeFileSync(join(this.#world, 'a.raw'), Buffer.alloc(65536, 'varve'))
    const image = join(this.#world, 'b.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M'])
  }

  /** What differs, as theirs and ours; nothing when they do the same. */
  async refused(line: readonly string[]): Promise<readonly [string, string] | undefined> {
    const args = [...line, ...end]
    const theirs = await this.#theirs(args, this.#fresh('theirs'))
    const ours = await this.#ours(args, this.#fresh('ours'))
    return theirs === ours ? undefined : [theirs, ours]
  }

  /** The same of a daemon that may serve: what it tells by its monitor. */
  async served(line: readonly string[]): Promise<readonly [string, string] | undefined> {
    const [theirs, ours] = await Promise.all([
      converse([this.#program], this.#fresh('theirs'), line),
      converse(varveDaemon, this.#fresh('ours'), line),
    ])
    return theirs === ours ? undefined : [theirs, ours]
  }

  get #world(): string {
    return join(this.#folder, 'world')
  }

  #fresh(name: string): string {
    const own = join(this.#folder, name)
    rmSync(own, { recursive: true, force: true })
    cpSync(this.#world, own, { recursive: true })
    return own
  }

  #theirs(args: readonly string[], cwd: string): Promise<string> {
    return new Promise((resolve) => {
      const options = { cwd, timeout: patienceMs, env: { ...process.env, LC_ALL: 'C' } }
      const child = execFile(this.#program, args, options, (_, stdout, stderr) => {
        resolve(told(child.exitCode, stdout, stderr, cwd))
      })
      child.stdin?.end()
    })
  }

  async #ours(args: readonly string[], cwd: string): Promise<string> {
    const before = process.cwd()
    process.chdir(cwd)
    try {
      const given = { signal: AbortSignal.timeout(patienceMs) }
      const { status, stdout, stderr } = await runCommand(run, args, given)
      return told(status, String(stdout), stderr, cwd)
    } finally {
      process.chdir(before)
    }
  }
}

function told(status: number | null, stdout: string, stderr: string, cwd: string): string {
  return `status ${status}\n${stdout}${nameless(stderr)}`
    .replaceAll(cwd, '.')
    .replaceAll(/(?<=\/dev\/pts\/)\d+/g, 'N')
}

const nameless = (text: string) => text.replaceAll(/\S*(?:qemu|varve)-storage-daemon/g, 'DAEMON')

async function converse(
  program: readonly string[],
  folder: string,
  line: readonly string[],
): Promise<string> {
  let talk: QmpTalk
  try {
    talk = await QmpTalk.start(program, folder, line)
  } catch (error) {
    const [, ...rest] = (error as Error).message.split(' ended: ')
    return nameless(rest.join('')).replaceAll(folder, '.')
  }
  await using _ = talk
  const answers: string[] = []
  for (const query of queries) {
    const { replies } = await talk.say(query)
    answers.push(inOneOrder(inOrder(query, normalised(replies))).replaceAll(folder, '.'))
  }
  answers.push(`ends with ${(await talk.quit()).status}`)
  return answers.join('\n')
}
