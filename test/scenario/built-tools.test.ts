/**
 * What is installed is not the source but what the build makes of it: one file a command, with
 * Node's modules loaded late. Everywhere else the tests run the source.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { scratchFolder } from '../support/folder.ts'

const run = promisify(execFile)
const folder = scratchFolder('built-tools')
const root = fileURLToPath(new URL('../../', import.meta.url))
const tools = join(folder, 'varve', 'dist', 'tools')
const main = join(tools, 'main.cjs')

async function varve(...args: string[]) {
  return await run(process.execPath, [main, ...args], { cwd: folder, timeout: 30_000 })
}

/** As `npm run build`, but into the folder. */
beforeAll(async () => {
  const varve = join(folder, 'varve')
  mkdirSync(varve)
  for (const name of ['node_modules', 'package.json', 'rolldown.config.ts']) {
    symlinkSync(join(root, name), join(varve, name))
  }
  const bin = join(root, 'node_modules', '.bin')
  const output = ['--outDir', join(varve, 'dist')]
  await run(join(bin, 'tsc'), ['-p', 'tsconfig.build.json', ...output], { cwd: root })
  await run(join(bin, 'rolldown'), ['-c', 'rolldown.config.ts'], { cwd: varve })
  writeFileSync(join(folder, 'disk.raw'), Buffer.alloc(1 << 20, 'disk'))
})

it('the built types suit a program that is strict in every way', async () => {
  const program = join(folder, 'program')
  mkdirSync(join(program, 'node_modules'), { recursive: true })
  symlinkSync(join(folder, 'varve'), join(program, 'node_modules', 'varve'))
  symlinkSync(join(root, 'node_modules', '@types'), join(program, 'node_modules', '@types'))
  writeFileSync(join(program, 'program.mts'), strictProgram)
  const options = '--strict --exactOptionalPropertyTypes --noUncheckedIndexedAccess'.split(' ')
  const how = '--module nodenext --target es2023 --lib es2023,esnext.disposable --types node'
  const args = [...options, ...how.split(' '), '--noEmit', 'program.mts']
  const { stdout } = await run(join(root, 'node_modules', '.bin', 'tsc'), args, {
    cwd: program,
  }).catch((error) => error)
  expect(stdout).toBe('')
})

const strictProgram = `
import { type Disk, Filter, openDisk } from 'varve'
import { NbdServer } from 'varve/nbd'
import { StorageDaemon } from 'varve/qmp'
import { saveSnapshot } from 'varve/snap'
import { VmaReader } from 'varve/vma'
export async function serve(disk: Disk, server: NbdServer): Promise<void> {
  const edge = disk.graph.attach(disk.node, { description: 'it', uses: ['consistentRead'] })
  server.addExport({ name: '', layer: edge, writable: false })
}
export class Slow extends Filter {}
export const all = [openDisk, StorageDaemon, saveSnapshot, VmaReader] as const
`

describe('the built tools', () => {
  it('make objects of classes from modules that are loaded late', () => {
    const wrong = readdirSync(tools).filter((file) =>
      /\bnew node_\w+\(\)/.test(readFileSync(join(tools, file), 'latin1')),
    )
    expect(wrong).toEqual([])
  })

  it('write an archive into a FIFO and read one from a FIFO', async () => {
    await run('mkfifo', ['out', 'in'], { cwd: folder })
    const create = varve('vma', 'create', 'out', '-d', 'format=raw:disk=disk.raw')
    await run('sh', ['-c', 'cat out > disk.vma'], { cwd: folder, timeout: 30_000 })
    await create
    const verified = varve('vma', 'verify', '-v', 'in')
    await run('sh', ['-c', 'cat disk.vma > in'], { cwd: folder, timeout: 30_000 })
    expect((await verified).stdout).toContain('devname: disk')
  })

  it('speak QMP over standard input and output that are pipes', async () => {
    const said = run(
      'sh',
      [
        '-c',
        `printf '%s' '{"execute":"qmp_capabilities"}{"execute":"quit"}' | "$0" "$1" daemon \
          --chardev stdio,id=c --monitor c`,
        process.execPath,
        main,
      ],
      { cwd: dirname(folder), timeout: 30_000 },
    )
    expect((await said).stdout).toContain('"return": {}')
  })

  it('run on in the background', async () => {
    const pidFile = join(folder, 'nbd.pid')
    const socket = join(folder, 'nbd.sock')
    await varve('nbd', '--fork', '--pid-file', pidFile, '-t', '-f', 'raw', '-k', socket, 'disk.raw')
    process.kill(Number(readFileSync(pidFile, 'utf8')))
    const daemon = ['--blockdev', 'driver=null-co,node-name=a', '--daemonize', '--pidfile', pidFile]
    await varve('daemon', ...daemon)
    process.kill(Number(readFileSync(pidFile, 'utf8')))
  })

  it('work in a folder that is gone', async () => {
    const script = 'mkdir gone && cd gone && rmdir ../gone && "$0" "$1" img info -f raw "$2"'
    const args = [process.execPath, main, join(folder, 'disk.raw')]
    const { stdout } = await run('sh', ['-c', script, ...args], { cwd: folder, timeout: 30_000 })
    expect(stdout).toContain('virtual size: 1 MiB')
  })
})
