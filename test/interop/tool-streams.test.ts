/**
 * What scripts see of the tools as processes: both outputs in one file, outputs that nobody reads or
 * that are full, signals, and the bytes of `-p`. Each line of shell runs with qemu's tools and with
 * ours, in folders of their own; `$IMG` and `$IO` are the tools.
 */

import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { comparable } from '../support/cli-random/programs.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'

const qemu = peer('qemu-img', 'qemu-io', 'sh')
const folder = scratchFolder('tool-streams')
const ourTool = (name: string) => `${process.execPath} ${main} ${name}`

const lines: readonly (readonly [string, string])[] = [
  ['errors stand before what was printed', '$IO -c map -c foo -c "read 0 1k" a 2>&1'],
  ['blocks of output stand where they were full', '$IO -c "read -v 0 4k" -c foo -c map a 2>&1'],
  ['a new image is told of before it fails', '$IMG create -f qcow2 nosuch/x 1M 2>&1'],
  ['a prompt is there before the answer', 'echo foo | $IO a 2>&1'],
  ['a bench is not told of before it fails', '$IMG bench -c 1 -o 4M -f qcow2 a 2>&1'],
  ['sigraise shows what was printed', '$IO -c "read 0 1k" -c "sigraise 9" a 2>&1; echo $?'],
  ['abort loses what was printed', '(ulimit -c 0; $IO -c "read 0 1k" -c abort a 2>/dev/null)'],
  ['a full disk for output is nothing', '$IMG info a >/dev/full; echo $?'],
  ['nor a closed output', '$IMG info a >&-; echo $?; $IMG info nosuch 2>&-; echo $?'],
  [
    'nor a reader that leaves',
    '$IMG map -f raw --output=json many | head -c 100; $IMG check a | :',
  ],
  ['convert -p', '$IMG convert -p a b | tr "\\r()" "\\n[]"'],
  ['convert -p of nothing', '$IMG create -q e 5M; $IMG convert -p e b | tr "\\r()" "\\n[]"'],
  ['convert -p without holes', '$IMG convert -p -S 0 many b | tr "\\r()" "\\n[]"'],
  ['convert -p, compressed', '$IMG convert -p -c -O qcow2 a b | tr "\\r()" "\\n[]"'],
  ['convert -p of what is not there', '$IMG convert -p nosuch b 2>&1 | tr "\\r()" "\\n[]"'],
  ['compare -p', '$IMG convert a b; $IMG compare -p a b | tr "\\r()" "\\n[]"'],
  ['rebase -p', '$IMG rebase -p -b "" top | tr "\\r()" "\\n[]"'],
  ['SIGUSR1 asks once', askedLine('')],
  ['SIGUSR1 is nothing beside -p', askedLine('-p')],
]

/** The work stands still for a while where the source has had its share. */
function askedLine(option: string): string {
  const convert = `$IMG convert ${option} -r 8M many b`
  // The target is made when the signal is waited for; where the work is by then is the program's choice.
  return `rm -f b; (${convert} & until [ -s b ]; do sleep 0.1; done; kill -USR1 $!; wait $!) 2>&1 | tr "\r()" "\n[]" | tail -n 2 | tr -d 0-9.`
}

qemu.describe('as processes', () => {
  // No line needs what another one changes.
  beforeAll(() => {
    for (const whose of ['o', 'q']) makeImages(join(folder, whose))
  })

  it.each(lines)('%s', { timeout: 60_000 }, async (_, line) => {
    const [ours, theirs] = await Promise.all([
      run(line, join(folder, 'o'), ourTool('img'), ourTool('io')),
      run(line, join(folder, 'q'), 'qemu-img', 'qemu-io'),
    ])
    expect(ours).toEqual(theirs)
  })
})

async function run(line: string, cwd: string, img: string, io: string) {
  const env = { ...process.env, IMG: img, IO: io, LC_ALL: 'C' }
  return await new Promise((resolve) => {
    const child = execFile('sh', ['-c', line], { cwd, env }, (_, stdout, stderr) =>
      resolve(comparable({ status: child.exitCode ?? '?', stdout, stderr })),
    )
    child.stdin?.end()
  })
}

function makeImages(cwd: string): void {
  mkdirSync(cwd, { recursive: true })
  const make = (program: string, ...args: string[]) => execFileSync(program, args, { cwd })
  make('qemu-img', 'create', '-q', '-f', 'qcow2', 'a', '64M')
  make('qemu-io', '-c', 'write -P 1 0 20M', '-c', 'write -P 2 40M 3M', 'a')
  make('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'a', '-F', 'qcow2', 'top')
  make('qemu-io', '-c', 'write 1M 3M', 'top')
  writeFileSync(join(cwd, 'many'), Buffer.alloc(24 * 1024 * 1024, 'many'))
}
