import { execFileSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CliOutcome, runCommand } from '../../test/support/cli.ts'
import { archiveOf, patternedDisk, type TestDevice } from '../../test/support/vma.ts'
import type { VmaWriterOptions } from '../archive/vma/writer.ts'
import type { CliIo } from './command.ts'
import { run } from './vma.ts'

const cluster = 65_536
const config = Buffer.from('cores: 2\nname: test\n')
const disks = [
  { name: 'drive-scsi0', content: patternedDisk(100 * cluster + 4096, 1) },
  { name: 'drive-scsi1', content: patternedDisk(10 * cluster + 512, 2) },
]

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-vma-'))
})
afterEach(() => rm(folder, { recursive: true }))

function vma(args: string[], given: Partial<CliIo> & { input?: Uint8Array } = {}) {
  return runCommand(run, args, { cwd: folder, ...given })
}

/** Runs a command that must succeed; its standard output. */
async function good(args: string[], given: Partial<CliIo> & { input?: Uint8Array } = {}) {
  const outcome = await vma(args, given)
  expect(outcome.stderr).toBe('')
  expect(outcome.status).toBe(0)
  return outcome.stdout.toString()
}

function expectRefusal(outcome: CliOutcome, message: string | RegExp): void {
  expect(outcome.stderr.split('\n')[0]).toMatch(message)
  expect(outcome.stderr).toMatch(/^vma: [^\n]+\n/)
  expect(outcome.status).toBe(1)
}

const inFolder = (name: string) => join(folder, name)

async function prepare(options: VmaWriterOptions = {}, devices: readonly TestDevice[] = disks) {
  const configs = [{ name: 'qemu-server.conf', data: config }]
  await writeFile(inFolder('a.vma'), await archiveOf(devices, configs, options))
}

describe('list', () => {
  test('prints configs, devices and the local time', async () => {
    const state = { name: 'vmstate', content: Buffer.alloc(cluster, 1), size: 196_508 }
    await prepare({ ctime: 1_795_181_011 }, [...disks, state])
    const time = execFileSync('date', ['-d', '@1795181011', '+%a %b %e %T %Y'], {
      env: { ...process.env, LC_ALL: 'C' },
    })
    expect(await good(['list', 'a.vma'])).toBe(
      [
        'CFG: size: 20 name: qemu-server.conf',
        'DEV: dev_id=1 size: 6557696 devname: drive-scsi0',
        'DEV: dev_id=2 size: 655872 devname: drive-scsi1',
        'VMSTATE: dev_id=3 memory: 196508',
        `CTIME: ${time}`,
      ].join('\n'),
    )
  })

  test('reads from standard input', async () => {
    await prepare()
    const input = await readFile(inFolder('a.vma'))
    expect(await good(['list', '-'], { input })).toBe(await good(['list', 'a.vma']))
  })

  test('--json', async () => {
    await prepare({ uuid: Buffer.alloc(16, 0xab), ctime: 7 })
    expect(JSON.parse(await good(['list', '--json', 'a.vma']))).toEqual({
      uuid: 'abababab-abab-abab-abab-abababababab',
      ctime: 7,
      configs: [{ name: 'qemu-server.conf', size: 20 }],
      devices: [
        { id: 1, name: 'drive-scsi0', size: 6_557_696, vmstate: false },
        { id: 2, name: 'drive-scsi1', size: 655_872, vmstate: false },
      ],
      checksums: true,
      index: true,
    })
  })
})

describe('config', () => {
  test('prints a file as it is, qemu-server.conf unless named', async () => {
    await prepare()
    expect(await good(['config', 'a.vma'])).toBe(config.toString())
    expect(await good(['config', 'a.vma', '-c', 'qemu-server.conf'])).toBe(config.toString())
    expect(JSON.parse(await good(['config', 'a.vma', '--json']))).toEqual({
      name: 'qemu-server.conf',
      size: 20,
      data: config.toString(),
    })
  })

  test('names what there is when asked for another', async () => {
    await prepare()
    expectRefusal(await vma(['config', 'a.vma', '-c', 'x']), /no configuration 'x'; it has: qemu-/)
  })
})

describe('create', () => {
  const writeDisks = async () => {
    await writeFile(inFolder('qemu-server.conf'), config)
    for (const { name, content } of disks) await writeFile(inFolder(`${name}.raw`), content)
  }
  const createArgs = [
    ...['-c', 'qemu-server.conf'],
    ...['-d', 'format=raw:drive-scsi0=drive-scsi0.raw', '-d', 'format=raw:drive-scsi1.raw'],
  ]

  test('stores configs and images; names are optional', async () => {
    await writeDisks()
    expect(await good(['create', 'new.vma', ...createArgs])).toBe('')
    expect((await good(['list', 'new.vma'])).split('\n').slice(0, 3)).toEqual([
      'CFG: size: 20 name: qemu-server.conf',
      'DEV: dev_id=1 size: 6557696 devname: drive-scsi0',
      'DEV: dev_id=2 size: 655872 devname: disk1',
    ])
    expect(await good(['verify', 'new.vma'])).toBe('')
  })

  test('-v tells the progress and what each image saved', async () => {
    await writeDisks()
    const { stderr, stdout, status } = await vma(['create', '-v', 'new.vma', ...createArgs])
    expect(status).toBe(0)
    expect(stdout.length).toBe(0)
    const lines = stderr.trimEnd().split('\n')
    expect(lines[0]).toMatch(/^progress \d+% \d+\/7213568 \d+$/)
    expect(lines.at(-3)).toMatch(/^progress 100% 7213568\/7213568 \d+$/)
    const [, zeroes, saved] = /^image disk1: size=655872 zeros=(\d+) saved=(\d+)$/.exec(
      lines.at(-1)!,
    )!
    expect(Number(zeroes) + Number(saved)).toBe(655_872)
  })

  test('to standard output, to zstd, and through a command', async () => {
    await writeDisks()
    const piped = await vma(['create', '-', ...createArgs])
    expect(await good(['verify', '-'], { input: piped.stdout })).toBe('')
    await good(['create', 'new.vma.zst', ...createArgs])
    expect(await good(['verify', 'new.vma.zst'])).toBe('')
    await good(['create', `exec:cat > ${inFolder('piped.vma')}`, ...createArgs])
    expect(await good(['verify', 'piped.vma'])).toBe('')
  })

  test('--reproducible gives the same bytes, with the time of SOURCE_DATE_EPOCH', async () => {
    await writeDisks()
    const env = { SOURCE_DATE_EPOCH: '1700000000' }
    await good(['create', '--reproducible', 'one.vma', ...createArgs], { env })
    await good(['create', '--reproducible', 'two.vma', ...createArgs], { env })
    expect((await readFile(inFolder('one.vma'))).equals(await readFile(inFolder('two.vma')))).toBe(
      true,
    )
    expect(JSON.parse(await good(['list', '--json', 'one.vma'])).ctime).toBe(1_700_000_000)
    expectRefusal(
      await vma(['create', '--reproducible', 'x.vma'], { env: { SOURCE_DATE_EPOCH: 'now' } }),
      /SOURCE_DATE_EPOCH is 'now'/,
    )
  })

  test.each([
    [
      'two devices of one name',
      ['-d', 'format=raw:a=drive-scsi0.raw', '-d', 'format=raw:a=drive-scsi1.raw'],
      /two devices are called 'a'/,
    ],
    ['a missing image', ['-d', 'format=raw:a=none.raw'], /none\.raw.*No such file/],
    ['a missing config', ['-c', 'none.conf'], /none\.conf.*No such file/],
    [
      'two configs of one name',
      ['-c', 'qemu-server.conf', '-c', './qemu-server.conf'],
      /two configuration files/,
    ],
    ['a config that is too large', ['-c', 'drive-scsi1.raw'], /65536 bytes; .* 65535/],
  ])('%s is refused, and nothing is left behind', async (_, args, message) => {
    await writeDisks()
    const before = await readdir(folder)
    expectRefusal(await vma(['create', 'new.vma', ...args]), message)
    expect(await readdir(folder)).toEqual(before)
  })

  test('an existing file is not touched', async () => {
    await writeDisks()
    await writeFile(inFolder('new.vma'), 'precious')
    expectRefusal(await vma(['create', 'new.vma', ...createArgs]), /exists already/)
    expect(await readFile(inFolder('new.vma'), 'utf8')).toBe('precious')
  })

  test('a full target is an error', async () => {
    await writeDisks()
    expectRefusal(await vma(['create', '/dev/full', ...createArgs]), /No space left on device/)
  })

  test('an interrupted one leaves nothing', async () => {
    await writeDisks()
    const before = await readdir(folder)
    const signal = AbortSignal.abort()
    expectRefusal(await vma(['create', 'new.vma', ...createArgs], { signal }), /interrupted/)
    expect(await readdir(folder)).toEqual(before)
  })
})

describe('verify', () => {
  test('-v tells what was read', async () => {
    const content = Buffer.alloc(4 * cluster)
    content.fill(1, 0, cluster)
    content.fill(2, cluster, cluster + 4096)
    await prepare({ ctime: 0 }, [{ name: 'disk', content }])
    const lines = (await good(['verify', '-v', 'a.vma'])).trimEnd().split('\n')
    expect(lines[0]).toBe('CFG: size: 20 name: qemu-server.conf')
    expect(lines.at(-3)).toMatch(/^progress 100% \(read 262144 bytes, duration \d+ sec\)$/)
    expect(lines.at(-2)).toBe('total bytes read 262144, sparse bytes 192512 (73.4%)')
    expect(lines.at(-1)).toBe('space reduction due to 4K zero blocks 46.9%')
  })

  test('damage is one line and, with --json, an object', async () => {
    await prepare()
    const bytes = await readFile(inFolder('a.vma'))
    bytes[500_000] ^= 1
    await writeFile(inFolder('a.vma'), bytes)
    expectRefusal(await vma(['verify', 'a.vma']), /a\.vma: the extent at byte 12800 is damaged/)
    const { stdout } = await vma(['verify', '--json', 'a.vma'])
    expect(JSON.parse(stdout.toString())).toMatchObject({
      ok: false,
      error: { code: 'CORRUPT_IMAGE', offset: 12_800 },
    })
  })

  test('--json of a whole archive', async () => {
    await prepare()
    expect(JSON.parse(await good(['verify', '--json', 'a.vma']))).toMatchObject({
      ok: true,
      bytes: 7_213_568,
      archiveSize: (await stat(inFolder('a.vma'))).size,
    })
  })
})

describe('extract', () => {
  test('writes sparse files and configs into a new directory', async () => {
    await prepare()
    expect(await good(['extract', 'a.vma', 'out'])).toBe(
      `DEVINFO ${inFolder('out/tmp-disk-drive-scsi0.raw')} 6557696\n` +
        `DEVINFO ${inFolder('out/tmp-disk-drive-scsi1.raw')} 655872\n`,
    )
    expect((await readdir(inFolder('out'))).sort()).toEqual([
      'disk-drive-scsi0.raw',
      'disk-drive-scsi1.raw',
      'qemu-server.conf',
    ])
    for (const { name, content } of disks) {
      const path = inFolder(`out/disk-${name}.raw`)
      expect((await readFile(path)).equals(content)).toBe(true)
      expect((await stat(path)).blocks * 512).toBeLessThan(content.length)
    }
    expect(await readFile(inFolder('out/qemu-server.conf'))).toEqual(config)
  })

  test('from standard input, and from other programs', async () => {
    await prepare({ extensions: false })
    const input = await readFile(inFolder('a.vma'))
    await good(['extract', '-', 'out'], { input })
    expect((await readFile(inFolder('out/disk-drive-scsi1.raw'))).equals(disks[1].content)).toBe(
      true,
    )
  })

  test('-d restores the named devices only', async () => {
    await prepare()
    await good(['extract', 'a.vma', '-d', 'drive-scsi1', 'out'])
    expect((await readdir(inFolder('out'))).sort()).toEqual([
      'disk-drive-scsi1.raw',
      'qemu-server.conf',
    ])
    expectRefusal(await vma(['extract', 'a.vma', '-d', 'nope', 'out2']), /no device 'nope'/)
    expect(await readdir(folder)).not.toContain('out2')
  })

  test('a vmstate becomes vmstate.bin, zero blocks included', async () => {
    const content = Buffer.alloc(3 * cluster)
    content.fill(9, 2 * cluster, 2 * cluster + 100)
    await prepare({}, [{ name: 'vmstate', content, size: 3 * cluster }])
    expect(await good(['extract', 'a.vma', 'out'])).toBe('')
    expect((await readFile(inFolder('out/vmstate.bin'))).equals(content)).toBe(true)
  })

  test('-v prints the list, the progress and totals', async () => {
    await prepare()
    const output = await good(['extract', '-v', 'a.vma', 'out'])
    expect(output).toMatch(/^CFG: .*CTIME: .*DEVINFO .*progress 100% \(read 7213568 bytes/s)
    expect(output).toMatch(/space reduction due to 4K zero blocks [\d.]+%\n$/)
  })

  test('-r sends devices where a map says', async () => {
    await prepare()
    await writeFile(inFolder('one.raw'), Buffer.alloc(disks[0].content.length + 4096, 0xee))
    await writeFile(
      inFolder('map'),
      `format=raw:1:drive-scsi0=${inFolder('one.raw')}\nskip=drive-scsi1\ndone\n`,
    )
    const output = await good(['extract', 'a.vma', '-r', 'map', 'out'])
    expect(output).toMatch(/^CFG: .*CTIME: [^\n]*\n$/s)
    const written = await readFile(inFolder('one.raw'))
    expect(written.subarray(0, disks[0].content.length).equals(disks[0].content)).toBe(true)
    expect(written.subarray(disks[0].content.length).every((byte) => byte === 0xee)).toBe(true)
    expect(await readdir(inFolder('out'))).toEqual(['qemu-server.conf'])
  })

  test('-r with 0 leaves zeroes alone, and the map can come through a FIFO', async () => {
    const content = Buffer.alloc(2 * cluster)
    content.fill(1, cluster)
    await prepare({}, [{ name: 'disk', content }])
    await writeFile(inFolder('one.raw'), Buffer.alloc(content.length, 0xee))
    execFileSync('mkfifo', [inFolder('fifo')])
    // Like the program that drives it: the map is written once the list has been printed.
    let seen = ''
    const stdout = new Writable({
      write(chunk, _, done) {
        seen += chunk
        const line = `throttling.bps=100000000:cache=none:0:disk=${inFolder('one.raw')}`
        if (/CTIME.*\n$/.test(seen)) void writeFile(inFolder('fifo'), `format=raw:${line}\n\n`)
        done()
      },
    })
    expect((await vma(['extract', '-v', 'a.vma', '-r', 'fifo', 'out'], { stdout })).status).toBe(0)
    const written = await readFile(inFolder('one.raw'))
    expect(written.subarray(0, cluster).every((byte) => byte === 0xee)).toBe(true)
    expect(written.subarray(cluster).equals(content.subarray(cluster))).toBe(true)
  })

  test.each([
    ['a device that the map forgets', 'skip=drive-scsi1', /does not say where 'drive-scsi0' goes/],
    ['a target that does not exist', '1:drive-scsi0=/nowhere/x\nskip=drive-scsi1', /No such file/],
    ['a target that is too small', '1:drive-scsi0=FOLDER/small\nskip=drive-scsi1', /needs 6557696/],
    ['a target that is too large', '1:drive-scsi1=FOLDER/large\nskip=drive-scsi0', /at most 4 MiB/],
    ['a line of nonsense', 'drive-scsi0', /expected \[OPTION=VALUE:\]/],
    ['an unknown option', 'colour=red:1:drive-scsi0=x', /unknown 'colour=red'/],
  ])('%s is refused', async (_, map, message) => {
    await prepare()
    await writeFile(inFolder('small'), 'x')
    await writeFile(inFolder('large'), Buffer.alloc(6_000_000))
    await writeFile(inFolder('map'), map.replace('FOLDER', folder))
    expectRefusal(await vma(['extract', 'a.vma', '-r', 'map', 'out']), message)
    expect(await readdir(folder)).not.toContain('out')
  })

  test('an existing directory is refused and kept', async () => {
    await prepare()
    expectRefusal(await vma(['extract', 'a.vma', folder]), /Could not create the directory.*exists/)
    expect(await readdir(folder)).toEqual(['a.vma'])
  })

  test('damage leaves nothing behind, or unfinished files with --keep', async () => {
    await prepare()
    const bytes = await readFile(inFolder('a.vma'))
    await writeFile(inFolder('a.vma'), bytes.subarray(0, bytes.length - 100_000))
    expectRefusal(await vma(['extract', 'a.vma', 'out']), /truncated|incomplete/)
    expect(await readdir(folder)).toEqual(['a.vma'])
    expectRefusal(await vma(['extract', '--keep', 'a.vma', 'out']), /truncated|incomplete/)
    expect(await readdir(inFolder('out'))).toContain('tmp-disk-drive-scsi0.raw')
  })

  test('names that lead elsewhere stay in the directory, or are refused', async () => {
    await prepare({ extensions: false }, [{ name: 'xxxx', content: Buffer.from('1') }])
    const { bytes, rename } = hostile(await readFile(inFolder('a.vma')))
    rename('qemu-server.conf', '../qemu-serv.con')
    await writeFile(inFolder('a.vma'), bytes())
    await good(['extract', 'a.vma', 'out'])
    expect((await readdir(inFolder('out'))).sort()).toEqual(['disk-xxxx.raw', 'qemu-serv.con'])
    rename('xxxx', '../x')
    await writeFile(inFolder('b.vma'), bytes())
    expectRefusal(await vma(['extract', 'b.vma', 'out2']), /'\.\.\/x' has a name that cannot be/)
  })

  test('names that forge lines are shown for what they are, and make no files', async () => {
    await prepare({ extensions: false }, [{ name: 'abcdefgh', content: Buffer.from('1') }])
    const { bytes, rename } = hostile(await readFile(inFolder('a.vma')))
    rename('abcdefgh', 'x\nDEV: 1')
    await writeFile(inFolder('b.vma'), bytes())
    expect(await good(['list', 'b.vma'])).toContain('size: 1 devname: x\\x0aDEV: 1\n')
    expectRefusal(await vma(['extract', 'b.vma', 'out']), /device 'x DEV: 1' has a name/)
  })

  test('two devices of one name are refused before anything is written', async () => {
    await prepare({ extensions: false }, [
      { name: 'aaaa', content: Buffer.from('1') },
      { name: 'bbbb', content: Buffer.from('2') },
    ])
    const { bytes, rename } = hostile(await readFile(inFolder('a.vma')))
    rename('bbbb', 'aaaa')
    await writeFile(inFolder('a.vma'), bytes())
    expectRefusal(await vma(['extract', 'a.vma', 'out']), /2 devices are called 'aaaa'/)
    expect(await readdir(folder)).toEqual(['a.vma'])
  })
})

describe('the command line', () => {
  test.each([
    [[], /a command is needed/],
    [['frobnicate'], /unknown command 'frobnicate'/],
    [['list'], /<filename> is missing/],
    [['list', 'a', 'b'], /unexpected argument 'b'/],
    [['list', '-x', 'a'], /invalid option -- 'x'/],
    [['extract', 'a.vma'], /<targetdir> is missing/],
    [['list', 'none.vma'], /none\.vma.*No such file or directory/],
    [['list', '.'], /is a directory/],
  ])('%s is refused', async (args, message) => {
    expectRefusal(await vma(args), message)
  })

  test('help is help', async () => {
    expect(await good(['--help'])).toMatch(/^usage: vma/)
  })

  test('something that is no archive is refused', async () => {
    await writeFile(inFolder('x'), 'hello')
    expectRefusal(await vma(['verify', 'x']), /x: not a VMA archive/)
  })
})

/** An archive whose names can be replaced by others of the same length, MD5 set right again. */
function hostile(archive: Buffer) {
  return {
    bytes: () => archive,
    rename(from: string, to: string) {
      const at = archive.indexOf(`${from}\0`)
      archive.write(to, at)
      const size = archive.readUInt32BE(56)
      archive.fill(0, 32, 48)
      hash('md5', archive.subarray(0, size), 'buffer').copy(archive, 32)
    },
  }
}
