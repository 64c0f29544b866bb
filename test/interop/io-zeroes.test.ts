/**
 * `write -z` that begins or ends inside a cluster: what is marked as zero and what is stored, as
 * `qemu-img map` and qemu-io's `map` show it, and what `-n` finds quick enough.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { ours, type Tool, theirs } from '../support/cli-random/programs.ts'
import { scratchFolder } from '../support/folder.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('io-zeroes')

/** Options of the image, what is written first, and what is looked at. */
const cases: readonly (readonly [string, readonly string[], string])[] = [
  ['', [], 'write -z 0 1k'],
  ['', [], 'write -z 1k 64k'],
  ['', [], 'write -z -n 10k 1k'],
  ['', [], 'write -z -u 10k 1k'],
  ['', [], 'write -z 1023k 512'],
  ['', ['write -P 1 0 64k'], 'write -z 60k 8k'],
  ['', ['write -P 1 0 64k'], 'write -z -n 60k 8k'],
  ['', ['write -P 1 0 64k', 'discard 0 64k'], 'write -z 2k 4k'],
  ['', ['write -z 0 64k'], 'write -z 60k 8k'],
  ['', ['write -c -P 1 0 64k'], 'write -z 60k 8k'],
  ['extended_l2=on', [], 'write -z 10k 1k'],
  ['extended_l2=on', [], 'write -z 1k 4k'],
  ['extended_l2=on', ['write -P 1 0 2k'], 'write -z 1k 4k'],
  ['compat=0.10', [], 'write -z 1k 4k'],
  ['compat=0.10', ['write -P 1 0 128k'], 'write -z 0 64k'],
  ['compat=0.10', ['write -P 1 0 128k'], 'write -z -n -u 0 64k'],
  ['compat=0.10', [], 'write -z -n 0 4k'],
  ['compat=0.10,backing_file=base,backing_fmt=qcow2', [], 'write -z -n 192k 64k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z 0 4k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z 60k 8k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z 120k 8k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z -n 128k 4k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z -n 192k 4k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z -n 120k 4k'],
  ['backing_file=base,backing_fmt=qcow2', [], 'write -z 512k 5k'],
  ['backing_file=chain,backing_fmt=qcow2', [], 'write -z -n 120k 4k'],
  ['backing_file=chain,backing_fmt=qcow2', [], 'write -z -n 130k 4k'],
]

qemu.describe('write -z', () => {
  it.each(cases)('[%s] %j: %s', async (options, before, command) => {
    const answers = []
    for (const whose of ['q', 'o'] as const) {
      const cwd = join(folder, whose)
      makeImage(cwd, options, before)
      const run = (tool: Tool, ...args: string[]) =>
        whose === 'q' ? theirs(tool, cwd, args) : ours(tool, cwd, args)
      const written = await run('io', '-f', 'qcow2', '-c', command, '-c', 'map', 'i')
      const map = await theirs('img', cwd, ['map', '--output=json', 'i'])
      const shown = written.stdout.replaceAll(/ops; .*/g, 'ops')
      answers.push({ ...written, stdout: shown, map: map.stdout })
    }
    expect(answers[1]).toEqual(answers[0])
  })
})

function makeImage(cwd: string, options: string, before: readonly string[]): void {
  rmSync(cwd, { recursive: true, force: true })
  mkdirSync(cwd)
  const make = (program: string, ...args: string[]) => execFileSync(program, args, { cwd })
  make('qemu-img', 'create', '-q', '-f', 'qcow2', 'base', '520k')
  make('qemu-io', '-c', 'write -P 9 128k 64k', 'base')
  make('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'qcow2', 'chain', '520k')
  const chosen = options ? ['-o', options] : []
  make('qemu-img', 'create', '-q', '-f', 'qcow2', ...chosen, 'i', '1M')
  if (before.length > 0) make('qemu-io', ...before.flatMap((line) => ['-c', line]), 'i')
}
