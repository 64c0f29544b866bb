/**
 * Reads a migration stream as it comes, item by item. What a snapshot cannot carry is refused by
 * name; a stream that ends early, or goes on behind its end, is refused too.
 *
 * The length of a device's state is not in the stream. It ends where a footer with the section's
 * id is followed by something that can follow (`footer-scan.ts`); the description at the end of the
 * stream, which has the lengths, tells afterwards whether that was right (`description.ts`).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import { printable, readConfiguration, settingsOf } from './configuration.ts'
import { checkLengths, type SeenSection } from './description.ts'
import { FooterScan } from './footer-scan.ts'
import {
  command as commands,
  defaultPageSize,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  ramSectionVersion,
  token,
} from './format.ts'
import type { RamBlock } from './ram-list.ts'
import { readRamList } from './ram-list-reader.ts'
import { RamRecordReader } from './ram-records.ts'
import type { Command, DeviceSection, StreamItem } from './stream-item.ts'
import { type ByteSource, Window } from './window.ts'

export interface StreamOptions {
  /** Bytes of a target page, unless the stream says so; 4096 unless given. */
  readonly pageSize?: number
  /** Accept a stream without the description at its end (`-machine suppress-vmdesc=on`). */
  readonly withoutDescription?: boolean
  /**
   * A stream whose source waits for an answer stays open behind its end. After this long, in ms,
   * a missing description counts as missing.
   */
  readonly patienceMs?: number
}

/** State of one device, which is held in memory whole. */
const maxSectionBytes = 512 * 1024 * 1024

const maxDescriptionBytes = 64 * 1024 * 1024

/** Sections that a machine may have; real ones have tens. */
const maxSections = 65536

export function readStream(source: ByteSource, options: StreamOptions = {}): StreamReader {
  return new StreamReader(source, options)
}

export class StreamReader implements AsyncIterable<StreamItem> {
  readonly #window: Window
  readonly #options: StreamOptions
  readonly #sections = new Map<number, SeenSection>()
  #pageSize: number
  #machine = ''
  #capabilities: readonly string[] = []
  #mixedPageSizes = false
  #ram: { readonly id: number; readonly records: RamRecordReader } | undefined
  #pagesCame = false
  #returnPath = false

  constructor(source: ByteSource, options: StreamOptions) {
    this.#window = new Window(source)
    this.#options = options
    this.#pageSize = options.pageSize ?? defaultPageSize
  }

  /** Bytes of a target page, known for sure with the list of RAM blocks. */
  get pageSize(): number {
    return this.#pageSize
  }

  /** Capabilities of the source that change what the stream means. */
  get capabilities(): readonly string[] {
    return this.#capabilities
  }

  /** The source has asked for a return path, and waits for SHUT there before it closes. */
  get hasReturnPath(): boolean {
    return this.#returnPath
  }

  /** The source uses multifd: most pages come over other connections (QEMU 8.1 and later tell). */
  get usesMultifd(): boolean {
    return this.#ram?.records.flushed ?? false
  }

  /** Bytes read so far. */
  get offset(): number {
    return this.#window.offset
  }

  /** Blocks of the list; empty before it came. */
  get blocks(): readonly RamBlock[] {
    return this.#ram?.records.blocks ?? []
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamItem, void> {
    yield await this.#header()
    for (;;) {
      await this.#window.need(1, 'the place of a section')
      const kind = this.#window.u8(0)
      switch (kind) {
        case token.QEMU_VM_CONFIGURATION:
          yield await this.#configuration()
          break
        case token.QEMU_VM_COMMAND:
          yield await this.#command()
          break
        case token.QEMU_VM_SECTION_START:
        case token.QEMU_VM_SECTION_FULL:
          yield await this.#section(kind)
          break
        case token.QEMU_VM_SECTION_PART:
        case token.QEMU_VM_SECTION_END:
          yield* this.#ramPart(kind === token.QEMU_VM_SECTION_END)
          break
        case token.QEMU_VM_EOF:
          yield this.#end()
          yield* this.#description()
          return
        default:
          throw this.#corrupt(`byte ${kind.toString(16).padStart(2, '0')} where a section begins`)
      }
    }
  }

  /** Reads and forgets what is left, so that whoever sends it is not stopped. */
  async drain(): Promise<void> {
    do this.#window.skip(this.#window.length)
    while (await this.#window.fill())
  }

  async #header(): Promise<StreamItem> {
    const window = this.#window
    await window.need(8, 'its header')
    if (window.u32(0) !== QEMU_VM_FILE_MAGIC) {
      throw new BlockError('NOT_RECOGNISED', `${window.name}: not a QEMU migration stream`, {
        path: window.name,
      })
    }
    const version = window.u32(4)
    if (version !== QEMU_VM_FILE_VERSION) {
      throw this.#refuse(`version ${version} of the migration stream`)
    }
    return { kind: 'header', bytes: window.take(8) }
  }

  async #configuration(): Promise<StreamItem> {
    if (this.#ram || this.#sections.size > 0 || this.#machine !== '') {
      throw this.#corrupt('a configuration in the middle')
    }
    const configuration = await readConfiguration(this.#window)
    const { pageSize, capabilities } = settingsOf(configuration, this.#window)
    this.#machine = configuration.machine
    this.#pageSize = pageSize ?? this.#pageSize
    this.#capabilities = capabilities
    const unknown = capabilities.find((name) => name !== 'x-ignore-shared')
    if (unknown === 'mapped-ram')
      throw this.#refuse('mapped-ram in a stream; it is read from a file')
    if (unknown !== undefined) throw this.#refuse(`the capability '${printable(unknown)}'`)
    return configuration
  }

  async #command(): Promise<Command> {
    const window = this.#window
    await window.need(5, 'a command')
    const number = window.u16(1)
    const length = window.u16(3)
    const expected = carried.get(number)
    if (!expected) {
      const name = Object.entries(commands).find(([, value]) => value === number)?.[0]
      if (!name) throw this.#corrupt(`the unknown command ${number}`)
      throw this.#refuse(`the command ${name}: it belongs to another kind of migration`)
    }
    if (!expected.includes(length)) {
      throw this.#corrupt(`command ${number} with ${length} bytes`)
    }
    await window.need(5 + length, 'a command')
    const bytes = window.take(5 + length)
    const payload = bytes.subarray(5)
    if (number === commands.MIG_CMD_OPEN_RETURN_PATH) this.#returnPath = true
    if (number === commands.MIG_CMD_POSTCOPY_ADVISE && length === 16) {
      const summary = Buffer.from(payload).readBigUInt64BE()
      this.#mixedPageSizes = summary !== BigInt(this.#pageSize)
    }
    return { kind: 'command', command: number, payload, bytes }
  }

  async #section(kind: number): Promise<StreamItem> {
    const window = this.#window
    const head = await this.#sectionHead()
    const { sectionId, name, instance, version, length } = head
    if (this.#sections.size >= maxSections) throw this.#corrupt('too many sections')
    if (this.#sections.has(sectionId)) throw this.#corrupt(`section ${sectionId} twice`)
    if (kind === token.QEMU_VM_SECTION_START) {
      if (name !== 'ram') throw this.#refuse(`the live state of '${printable(name)}'`)
      return await this.#ramList(head)
    }
    if (name === 'ram') throw this.#corrupt('RAM in a section for devices')
    const scan = new FooterScan(sectionId, (id) => this.#ram?.id === id)
    for (let found = scan.find(window.bytes, length); ; found = scan.find(window.bytes, length)) {
      if (found.kind === 'end') {
        const total = found.end
        const seen = { name, instance, bodyLength: total - 5 - length }
        this.#sections.set(sectionId, seen)
        const bytes = window.take(total)
        const body = bytes.subarray(length, total - 5)
        const early = !this.#pagesCame
        const item: DeviceSection = {
          ...{ kind: 'section', sectionId, name, instance, version, body, bytes, early },
        }
        return item
      }
      if (window.length > maxSectionBytes) {
        throw this.#refuse(
          `'${printable(name)}' with more than ${maxSectionBytes} bytes of state, or without ` +
            'footers (send-section-footer=off)',
        )
      }
      if (!(await window.fill())) {
        const last = scan.atEnd(window.bytes, length)
        await window.need(window.length + 1, last ?? `the state of '${printable(name)}'`)
      }
    }
  }

  async #sectionHead() {
    const window = this.#window
    await window.need(6, 'the head of a section')
    const nameLength = window.u8(5)
    const length = 6 + nameLength + 8
    await window.need(length, 'the head of a section')
    return {
      sectionId: window.u32(1),
      name: window.text(6, nameLength),
      instance: window.u32(6 + nameLength),
      version: window.u32(10 + nameLength),
      length,
    }
  }

  async #ramList(head: { sectionId: number; instance: number; version: number; length: number }) {
    const { sectionId, instance, version, length } = head
    if (this.#ram) throw this.#corrupt('RAM twice')
    if (instance !== 0 || version !== ramSectionVersion) {
      throw this.#refuse(`version ${version} of RAM`)
    }
    const { blocks, flushed, end } = await readRamList(this.#window, length, {
      pageSize: this.#pageSize,
      guestAddresses: this.#capabilities.includes('x-ignore-shared'),
      pageSizes: this.#mixedPageSizes,
    })
    const records = new RamRecordReader(this.#window, blocks, this.#pageSize)
    records.flushed = flushed
    this.#ram = { id: sectionId, records }
    this.#sections.set(sectionId, { name: 'ram', instance, bodyLength: 0 })
    await this.#checkFooter(sectionId, end)
    const bytes = this.#window.take(end + 5)
    return { kind: 'ram-list' as const, sectionId, blocks, pageSize: this.#pageSize, bytes }
  }

  async *#ramPart(last: boolean): AsyncGenerator<StreamItem, void> {
    const window = this.#window
    const start = window.offset
    await window.need(5, 'the head of a section')
    const id = window.u32(1)
    if (!this.#ram) throw this.#corrupt(`a part of section ${id}, which has not begun`)
    if (id !== this.#ram.id) throw this.#corrupt(`a part of section ${id}, which is not RAM`)
    window.skip(5)
    this.#pagesCame = true
    yield* this.#ram.records.read()
    await this.#checkFooter(id, 0)
    window.skip(5)
    yield { kind: 'ram-part', last, length: window.offset - start }
  }

  async #checkFooter(sectionId: number, at: number): Promise<void> {
    const window = this.#window
    await window.need(at + 5, 'the footer of a section')
    if (window.u8(at) !== token.QEMU_VM_SECTION_FOOTER) {
      throw this.#refuse('sections without footers (send-section-footer=off)')
    }
    if (window.u32(at + 1) !== sectionId) {
      throw this.#corrupt(`a footer of section ${window.u32(at + 1)} behind section ${sectionId}`)
    }
  }

  #end(): StreamItem {
    if (!this.#ram) throw this.#corrupt('an end before any RAM')
    if (this.#sections.size < 2) throw this.#corrupt('an end before any device')
    return { kind: 'end', bytes: this.#window.take(1) }
  }

  async *#description(): AsyncGenerator<StreamItem, void> {
    const window = this.#window
    if (!(await this.#more())) {
      if (this.#options.withoutDescription || hasNoDescription(this.#machine)) return
      throw new BlockError(
        'CORRUPT_IMAGE',
        `${window.name}: the stream ends at byte ${window.offset}, before the description of ` +
          'its devices; machines with suppress-vmdesc=on need the option --no-description',
        { path: window.name, offset: window.offset },
      )
    }
    if (window.u8(0) !== token.QEMU_VM_VMDESCRIPTION) throw this.#trailing()
    await window.need(5, 'the description')
    const length = window.u32(1)
    if (length > maxDescriptionBytes) throw this.#corrupt(`a description of ${length} bytes`)
    await window.need(5 + length, 'the description')
    const text = window.text(5, length)
    checkLengths(text, this.#sections.values(), window.name)
    yield { kind: 'description', text, bytes: window.take(5 + length) }
    if (this.#returnPath ? window.length > 0 : await this.#more()) throw this.#trailing()
  }

  /** Whether something follows. Where the source keeps the stream open, it is not waited for long. */
  async #more(): Promise<boolean> {
    const window = this.#window
    if (window.length > 0) return true
    const filled = window.fill()
    if (!this.#returnPath) return await filled
    filled.catch(() => {})
    const given = new AbortController()
    const patience = sleep(this.#options.patienceMs ?? 1000, false, given)
    try {
      return await Promise.race([filled, patience])
    } finally {
      given.abort()
      patience.catch(() => {})
    }
  }

  #trailing(): BlockError {
    return this.#corrupt('bytes behind the end of the stream')
  }

  #corrupt(what: string): BlockError {
    const { name, offset } = this.#window
    return new BlockError('CORRUPT_IMAGE', `${name}: ${what}, at byte ${offset} of the stream`, {
      path: name,
      offset,
    })
  }

  #refuse(what: string): BlockError {
    const { name, offset } = this.#window
    return new BlockError(
      'UNSUPPORTED',
      `${name}: a snapshot cannot carry ${what} (at byte ${offset} of the stream)`,
      { path: name, offset, errno: 'ENOTSUP' },
    )
  }
}

/** Commands that an ordinary capture may have, and how many bytes they come with. */
const carried: ReadonlyMap<number, readonly number[]> = new Map([
  [commands.MIG_CMD_OPEN_RETURN_PATH, [0]],
  [commands.MIG_CMD_PING, [4]],
  [commands.MIG_CMD_POSTCOPY_ADVISE, [0, 16]],
  [commands.MIG_CMD_SWITCHOVER_START, [0]],
])

/** Machine types up to 2.2 end their streams without one. */
function hasNoDescription(machine: string): boolean {
  const version = /-(\d+)\.(\d+)$/.exec(machine)
  if (!version) return false
  const [major, minor] = [Number(version[1]), Number(version[2])]
  return major < 2 || (major === 2 && minor <= 2)
}
