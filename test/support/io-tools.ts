/** The same command line through qemu-io and through `varve io`, with what differs by nature cut. */
import { execFile } from 'node:child_process'
import { run } from '../../src/cli/io.ts'
import { peer } from '../peers.ts'
import { runCommand } from './cli.ts'

export const qemuIo = peer('qemu-io', 'qemu-img')

export interface Result {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs `varve io` in this process. */
export async function varveIo(args: readonly string[], input = ''): Promise<Result> {
  const outcome = await runCommand(run, args, { input: Buffer.from(input) })
  return comparable({ ...outcome, stdout: outcome.stdout.toString() })
}

export function realIo(args: readonly string[], input = ''): Promise<Result> {
  return new Promise((resolve, reject) => {
    const options = { timeout: 60_000, maxBuffer: 64 * 1024 * 1024 }
    const child = execFile(qemuIo.path ?? 'qemu-io', args, options, (error, stdout, stderr) => {
      if (error && typeof error.code === 'string') reject(error)
      else resolve(comparable({ status: child.exitCode ?? -1, stdout, stderr }))
    })
    // It may be gone before it has read anything.
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}

/** Without times and rates, and with one name for both programs. */
function comparable({ status, stdout, stderr }: Result): Result {
  return {
    status,
    stdout: stdout
      .replaceAll(/(?:\d\d\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \(.*\)/g, 'TIME (RATES)')
      .replaceAll(/^(\d+,1),[\d:.,]+$/gm, '$1,TIME'),
    stderr: stderr.replaceAll(/^varve-io: /gm, 'qemu-io: '),
  }
}
