/** What the images of both sides are in the end. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Message } from '../qmp-talk.ts'
import { worldFiles } from './world.ts'

/** Jobs that were not allowed to end leave as much as they had done. */
function isUnfinished(said: readonly Message[]): boolean {
  return /"speed"|cancel|"sync":"none"/.test(JSON.stringify(said))
}

/** Where they differ for those who use them, once both daemons have ended. */
export function imageDifference(
  folders: readonly string[],
  said: readonly Message[],
): string | undefined {
  const names = [...worldFiles.map(({ name }) => name), 'over0.qcow2', 'over1.qcow2', 'made.img']
  for (const name of names) {
    const [their, our] = folders.map((folder) => join(folder, name))
    if (existsSync(their) !== existsSync(our)) return `${name}: only one side has it`
    if (!existsSync(their)) continue
    const results = [their, our].map(checked)
    if (results[0] !== results[1])
      return `${name}: check\n  theirs ${results[0]}\n  ours   ${results[1]}`
    if (isUnfinished(said)) continue
    const compared = attempt('qemu-img', ['compare', '-q', their, our])
    if (compared.status === 1) return `${name}: contents differ`
  }
  return undefined
}

function checked(file: string): string {
  const { status, stdout } = attempt('qemu-img', ['check', '--output=json', file])
  if (status !== 0 && status !== 2 && status !== 3) return 'not checked'
  const { corruptions, leaks } = JSON.parse(stdout)
  return `corruptions ${corruptions ?? 0}, ${leaks ? 'leaks' : 'no leaks'}`
}

function attempt(program: string, args: readonly string[]): { status: number; stdout: string } {
  try {
    const stdout = execFileSync(program, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return { status: 0, stdout }
  } catch (error) {
    const { status, stdout } = error as { status: number; stdout: string }
    return { status: status ?? -1, stdout }
  }
}
