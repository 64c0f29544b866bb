/** The same command line in both folders while qemu-nbd serves one of their images. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RemoteLine } from './remote-lines.ts'
import type { Finding, Trial } from './trial.ts'

export async function runRemote(
  trial: Trial,
  line: RemoteLine,
  leader: 'o' | 'q',
): Promise<Finding | undefined> {
  const servers = await Promise.all([trial.ours, trial.theirs].map((each) => serve(each, line)))
  try {
    return await trial.run(line.tool, line.words, leader)
  } finally {
    await Promise.all(servers.map(end))
    for (const folder of [trial.ours, trial.theirs]) rmSync(join(folder, 'sock'), { force: true })
  }
}

async function serve(folder: string, line: RemoteLine): Promise<ChildProcess> {
  const socket = join(folder, 'sock')
  const { served, readOnly, exportName } = line
  const words = ['-t', '-e', '0', '-f', 'raw', '-k', socket, '-x', exportName]
  const all = [...words, ...(readOnly ? ['-r'] : []), served]
  const server = spawn('qemu-nbd', all, { cwd: folder, stdio: 'ignore' })
  // It may be refused an image that an earlier line has left unfit.
  while (!existsSync(socket) && server.exitCode === null) await sleep(2)
  return server
}

async function end(server: ChildProcess): Promise<void> {
  // What comes before its main loop is forgotten.
  while (server.exitCode === null && server.signalCode === null) {
    server.kill('SIGTERM')
    await sleep(5)
  }
}
