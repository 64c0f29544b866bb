/**
 * The programs that varve is held against. On a machine without one its tests are skipped and
 * say so; under CI=true they fail, for there everything has to be installed.
 *
 * ```ts
 * const qemuImg = peer('qemu-img')
 * qemuImg.describe('raw images', () => {
 *   it('are compared as equal', async () => {
 *     await qemuImg.run('compare', one, other)
 *   })
 * })
 * ```
 *
 * A second QEMU may be installed beside the system's: `newerPeer` is a program of the folder that
 * `VARVE_QEMU10` names, which `.ci/qemu-10` fills. It is not required, for it is downloaded.
 */
import { execFile } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { describe as describeTests, it as test } from 'vitest'

export interface Outcome {
  /** Exit status; -1 when a signal ended it. */
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

export interface Peer {
  readonly name: string
  /** Where it is installed; undefined where it is not. */
  readonly path: string | undefined
  /** As vitest's, for tests that need the program. */
  describe(title: string, body: () => void): void
  it(title: string, body: () => void | Promise<void>): void
  /** Standard output; throws with standard error when the status is not 0. */
  run(...args: string[]): Promise<string>
  /** Whatever happens; only a program that cannot be started throws. */
  try(...args: string[]): Promise<Outcome>
}

/** The program `name`. Its tests may need `others` too: programs, looked for in PATH as well. */
export function peer(name: string, ...others: string[]): Peer {
  const absent = [name, ...others].filter((program) => !findProgram(program))
  const note = `${absent.join(', ')} not installed`
  return peerAt(name, findProgram(name), { absent: absent.length > 0, note, required: inCi() })
}

/** The program `name` of QEMU 10, beside the system's. */
export function newerPeer(name: string): Peer {
  const folder = process.env.VARVE_QEMU10
  const path = folder ? [join(folder, name)].find(isExecutable) : undefined
  const note = folder ? `no ${name} in ${folder}` : 'VARVE_QEMU10 is not set; see .ci/qemu-10'
  return peerAt(name, path, { absent: path === undefined, note, required: false })
}

interface Presence {
  readonly absent: boolean
  readonly note: string
  /** Fail rather than skip. */
  readonly required: boolean
}

function peerAt(name: string, path: string | undefined, presence: Presence): Peer {
  const { absent, note, required } = presence
  return {
    name,
    path,
    describe(title, body) {
      if (!absent) describeTests(title, body)
      else if (required) describeTests(title, () => test('has its peers', () => fail(note)))
      else describeTests.skip(`${title} [skipped: ${note}]`, body)
    },
    it(title, body) {
      if (!absent) test(title, body)
      else if (required) test(title, () => fail(note))
      else test.skip(`${title} [skipped: ${note}]`, body)
    },
    async run(...args) {
      const outcome = await start(path ?? name, args)
      if (outcome.status === 0) return outcome.stdout
      throw new Error(`${name} ${args.join(' ')} ended with ${outcome.status}: ${outcome.stderr}`)
    },
    try: (...args) => start(path ?? name, args),
  }
}

export function inCi(): boolean {
  return process.env.CI === 'true'
}

function fail(note: string): never {
  throw new Error(`${note}, and CI=true forbids skipping`)
}

function findProgram(name: string): string | undefined {
  // Debian keeps mkfs, losetup and their kind where an ordinary user's PATH does not lead.
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return folders.map((folder) => join(folder, name)).find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Longest run of a program before it counts as stuck. */
const timeoutMs = 120_000

function start(path: string, args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const options = { maxBuffer: 256 * 1024 * 1024, timeout: timeoutMs }
    const child = execFile(path, args, options, (error, stdout, stderr) => {
      if (
        error &&
        typeof error.code === 'string' &&
        error.code !== 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER'
      ) {
        reject(error)
      } else {
        resolve({ status: child.exitCode ?? -1, stdout, stderr })
      }
    })
    child.stdin?.end()
  })
}
