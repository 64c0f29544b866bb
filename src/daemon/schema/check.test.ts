import { describe, expect, it } from 'vitest'
import { drivers } from '../../drivers.ts'
import { commands } from '../commands/table.ts'
import { events } from '../events.ts'
import { isDeclared } from './blockdev-options.ts'
import { check } from './check.ts'
import { introspect, type SchemaEntry } from './introspect.ts'

function refusal(command: string, args: unknown, notation?: 'keyval'): string {
  try {
    check(commands.get(command)!.args, args, notation)
  } catch (error) {
    return (error as Error).message
  }
  return 'accepted'
}

describe('sizes on command lines', () => {
  const exported = {
    ...{ type: 'vhost-user-blk', id: 'e', 'node-name': 'n' },
    addr: { type: 'unix', path: 'p' },
  }
  const tell = (size: string) =>
    refusal('block-export-add', { ...exported, 'logical-block-size': size }, 'keyval')
  it.each(['512', '4k', '1K', '1.5k', '0x200', '2M'])('%s', (size) => {
    expect(tell(size)).toBe('accepted')
  })
  it.each(['4kb', '-1', '4K1', '1e3', ''])('no size: "%s"', (size) => {
    expect(tell(size)).toBe("Parameter 'logical-block-size' expects size")
  })
})

describe('arguments', () => {
  // What Debian's qemu-storage-daemon answered to the same.
  it.each([
    ['blockdev-del', {}, "Parameter 'node-name' is missing"],
    [
      'blockdev-del',
      { 'node-name': 1 },
      "Invalid parameter type for 'node-name', expected: string",
    ],
    ['blockdev-del', { 'node-name': 'a', x: 1 }, "Parameter 'x' is unexpected"],
    ['blockdev-del', { 'node-name': 'a' }, 'accepted'],
    ['qmp_capabilities', { enable: 1 }, "Invalid parameter type for 'enable', expected: array"],
    [
      'qmp_capabilities',
      { enable: [1] },
      "Invalid parameter type for 'enable[0]', expected: string",
    ],
    ['qmp_capabilities', { enable: ['x'] }, "Parameter 'null' does not accept value 'x'"],
    ['nbd-server-start', { addr: {} }, "Parameter 'addr.type' is missing"],
    ['nbd-server-start', { addr: { type: 'x' } }, "Parameter 'type' does not accept value 'x'"],
    ['nbd-server-start', { addr: { type: 'unix' } }, "Parameter 'addr.data' is missing"],
    [
      'nbd-server-start',
      { addr: { type: 'unix', data: {} } },
      "Parameter 'addr.data.path' is missing",
    ],
    ['blockdev-add', { driver: 'x' }, "Parameter 'driver' does not accept value 'x'"],
    ['blockdev-add', { driver: 'file' }, "Parameter 'filename' is missing"],
    [
      'blockdev-add',
      { driver: 'raw', file: { driver: 'file', filename: 1 } },
      "Invalid parameter type for 'file.filename', expected: string",
    ],
    [
      'blockdev-add',
      { driver: 'raw', file: [] },
      "Invalid parameter type for 'file', expected: BlockdevRef",
    ],
    [
      'blockdev-add',
      { driver: 'raw', file: { driver: 'null-co', y: {} } },
      "Parameter 'file.y' is unexpected",
    ],
    [
      'blockdev-add',
      { driver: 'null-co', size: 1.5 },
      "Invalid parameter type for 'size', expected: integer",
    ],
    [
      'blockdev-add',
      { driver: 'null-co', size: 2n ** 64n - 1n },
      "Invalid parameter type for 'size', expected: integer",
    ],
    [
      'blockdev-add',
      { driver: 'null-co', cache: 1 },
      "Invalid parameter type for 'cache', expected: object",
    ],
  ])('of %s: %o gives %s', (command, args, answer) => {
    expect(refusal(command, args)).toBe(answer)
  })

  it('names the range of an integer', () => {
    const args = { addr: { type: 'unix', data: { path: 'x' } }, 'max-connections': -2 }
    expect(refusal('nbd-server-start', args)).toBe("Parameter 'max-connections' expects uint32_t")
  })

  it('converts keys and values', () => {
    const { args } = commands.get('blockdev-add')!
    const given = { driver: 'null-co', size: '0x400', 'read-zeroes': 'on' }
    expect(check(args, given, 'keyval')).toEqual({
      driver: 'null-co',
      size: 1024,
      'read-zeroes': true,
    })
    expect(refusal('blockdev-add', { ...given, size: 'x' }, 'keyval')).toBe(
      "Parameter 'size' expects integer",
    )
    expect(refusal('blockdev-add', { ...given, 'read-zeroes': 'x' }, 'keyval')).toBe(
      "Parameter 'read-zeroes' expects 'on' or 'off'",
    )
  })

  it('takes members called __proto__ for unexpected ones', () => {
    const args = JSON.parse('{"node-name": "a", "__proto__": {"x": 1}}')
    expect(refusal('blockdev-del', args)).toBe("Parameter '__proto__' is unexpected")
  })
})

it('declares the options of every driver', () => {
  const onlyFile = ['vdi', 'vhdx', 'vpc', 'parallels', 'dmg', 'bochs', 'cloop', 'compress']
  const missing = drivers.map(({ name }) => name).filter((name) => !isDeclared(name))
  expect(missing.filter((name) => !onlyFile.includes(name))).toEqual([])
})

describe('introspection', () => {
  const schema = introspect([...commands.values()], events)
  const byName = new Map(schema.map((entry) => [entry.name as string, entry]))

  it('names each entry once', () => {
    expect(byName.size).toBe(schema.length)
  })

  it('refers to nothing that it does not describe', () => {
    const referred = schema.flatMap(referencesOf)
    expect(referred.filter((name) => !byName.has(name))).toEqual([])
  })
})

function referencesOf(entry: SchemaEntry): string[] {
  const members = (entry.members ?? []) as { type?: string }[]
  const variants = (entry.variants ?? []) as { type: string }[]
  const single = ['arg-type', 'ret-type', 'element-type'].map((key) => entry[key])
  const all = [...members, ...variants].map(({ type }) => type)
  return [...single, ...all].filter((name) => typeof name === 'string')
}
