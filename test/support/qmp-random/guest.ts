/** What guests do through the exports of both daemons, between two commands. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Message } from '../qmp-talk.ts'
import type { Names } from './names.ts'

/** In place of a command; `guest` is the export's name, and what qemu-io is told to do with it. */
export interface GuestStep extends Message {
  readonly guest: { readonly name: string; readonly commands: readonly string[] }
}

export function isGuestStep(step: Message): step is GuestStep {
  return 'guest' in step
}

const patienceMs = 10_000
const starts = [0, 512, 65_536, 100_000 - 160, 1 << 20, 3 << 20]
const lengths = [512, 4096, 65_536, 200_704]

export function guestStep(names: Names): GuestStep | undefined {
  const { random, view } = names
  // Exports are called as their ids, or as the generator calls some of them.
  const exported = view.exports.length > 0
  if (!exported) return undefined
  const name = random.chance(0.3) ? `x${random.below(4)}` : names.disk()
  const commands = Array.from({ length: 1 + random.below(3) }, () => {
    const where = `${random.pick(starts)} ${random.pick(lengths)}`
    return random.pick([
      `write -P ${1 + random.below(200)} ${where}`,
      `write -P ${1 + random.below(200)} ${where}`,
      `write -z ${where}`,
      `discard ${where}`,
      `read -v ${where.split(' ')[0]} 512`,
      'flush',
    ])
  })
  return { guest: { name, commands } }
}

/** What qemu-io says to it, without how fast it was. */
export async function asGuest(folder: string, { guest }: GuestStep): Promise<string> {
  const uri = `nbd+unix:///${guest.name}?socket=${join(folder, 'nbd.sock')}`
  const args = ['-f', 'raw', ...guest.commands.flatMap((each) => ['-c', each]), uri]
  const run = promisify(execFile)('qemu-io', args, { cwd: folder, timeout: patienceMs })
  const { stdout, stderr } = await run.catch((error) => error as { stdout: string; stderr: string })
  const said = `${stdout}${stderr}`.replaceAll(folder, '.').split('\n')
  return JSON.stringify(said.filter((line) => !/ops; | bytes\/sec/.test(line)))
}
