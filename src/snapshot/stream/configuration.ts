/** The configuration with which a stream begins: the machine, and what changes the stream's form. */
import { BlockError } from '../../errors.ts'
import { maxPageSize, minPageSize, token } from './format.ts'
import type { Configuration, Subsection } from './stream-item.ts'
import type { Window } from './window.ts'

const maxConfigurationBytes = 1024 * 1024
const maxCapabilities = 256

const what = 'the configuration'

const capabilitiesName = 'configuration/capabilities'

/** Reads the configuration at the front of the window, and takes it. */
export async function readConfiguration(window: Window): Promise<Configuration> {
  await window.need(5, what)
  const length = window.u32(1)
  if (length > maxConfigurationBytes) throw corrupt(window, `a name of ${length} bytes`)
  let at = 5 + length
  await window.need(at + 1, what)
  const machine = window.text(5, length)
  const found: { name: string; version: number; start: number; end: number }[] = []
  while (window.u8(at) === token.QEMU_VM_SUBSECTION) {
    await window.need(at + 2, what)
    const nameEnd = at + 2 + window.u8(at + 1)
    await window.need(nameEnd + 4, what)
    const name = window.text(at + 2, nameEnd - at - 2)
    const start = nameEnd + 4
    const end = await subsectionEnd(window, name, start)
    await window.need(end + 1, what)
    found.push({ name, version: window.u32(nameEnd), start, end })
    at = end
    if (at > maxConfigurationBytes) throw corrupt(window, 'it has no end')
  }
  const bytes = window.take(at)
  const subsections = found.map(({ name, version, start, end }): Subsection => {
    return { name, version, data: bytes.subarray(start, end) }
  })
  return { kind: 'configuration', machine, subsections, bytes }
}

async function subsectionEnd(window: Window, name: string, start: number): Promise<number> {
  switch (name) {
    case 'configuration/target-page-bits':
      return start + 4
    case 'configuration/uuid':
      return start + 16
    case capabilitiesName: {
      await window.need(start + 4, what)
      const count = window.u32(start)
      if (count > maxCapabilities) throw corrupt(window, `${count} capabilities`)
      let at = start + 4
      for (let index = 0; index < count; index++) {
        await window.need(at + 1, what)
        at += 1 + window.u8(at)
      }
      return at
    }
    default:
      throw new BlockError(
        'UNSUPPORTED',
        `${window.name}: a snapshot cannot carry the subsection '${printable(name)}'`,
        { path: window.name, offset: window.offset, errno: 'ENOTSUP' },
      )
  }
}

/** What the subsections say about the rest of the stream. */
export function settingsOf(
  { subsections }: Configuration,
  window: Window,
): { readonly pageSize?: number; readonly capabilities: readonly string[] } {
  let pageSize: number | undefined
  let capabilities: readonly string[] = []
  for (const { name, data } of subsections) {
    if (name === 'configuration/target-page-bits') {
      const bits = Buffer.from(data).readUInt32BE()
      pageSize = 2 ** bits
      if (bits > 31 || pageSize < minPageSize || pageSize > maxPageSize) {
        throw corrupt(window, `pages of 2^${bits} bytes`)
      }
    } else if (name === capabilitiesName) capabilities = capabilityNames(data)
  }
  return { pageSize, capabilities }
}

function capabilityNames(data: Uint8Array): string[] {
  const names: string[] = []
  for (let at = 4; at < data.length; at += 1 + data[at]) {
    names.push(Buffer.from(data.subarray(at + 1, at + 1 + data[at])).toString('utf8'))
  }
  return names
}

/** The same configuration with other capabilities; without the subsection where there are none. */
export function withCapabilities(
  { machine, subsections }: Configuration,
  capabilities: readonly string[],
): Buffer {
  const head = Buffer.alloc(5)
  head[0] = token.QEMU_VM_CONFIGURATION
  head.writeUInt32BE(Buffer.byteLength(machine), 1)
  const parts: Uint8Array[] = [head, Buffer.from(machine)]
  const add = (name: string, version: number, data: Uint8Array) => {
    const number = Buffer.alloc(4)
    number.writeUInt32BE(version)
    parts.push(Buffer.of(token.QEMU_VM_SUBSECTION, name.length), Buffer.from(name), number, data)
  }
  const others = subsections.filter(({ name }) => name !== capabilitiesName)
  const before = others.filter(({ name }) => name === 'configuration/target-page-bits')
  for (const { name, version, data } of before) add(name, version, data)
  if (capabilities.length > 0) {
    const count = Buffer.alloc(4)
    count.writeUInt32BE(capabilities.length)
    const names = capabilities.map((name) =>
      Buffer.concat([Buffer.of(name.length), Buffer.from(name)]),
    )
    add(capabilitiesName, 1, Buffer.concat([count, ...names]))
  }
  for (const { name, version, data } of others) {
    if (!before.some((one) => one.name === name)) add(name, version, data)
  }
  return Buffer.concat(parts)
}

/** A name from a stranger, fit for a message. */
export function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?')
}

function corrupt(window: Window, text: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', `${window.name}: ${what}: ${text}`, {
    path: window.name,
    offset: window.offset,
  })
}
