/**
 * Writes a snapshot: RAM to the disk of the image, all else behind it, and last of all the mark
 * that it is complete. Whoever reads an image that was abandoned before finds no snapshot in it.
 */
import { createHash, randomBytes } from 'node:crypto'
import type { VmState } from '../../block/abilities.ts'
import { plainIo, plainWriteIo } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import type { RamList, RamRecords } from '../stream/stream-item.ts'
import { endOf, maxLeaderBytes, placeBlocks, stateHeader, stateMagic } from './layout.ts'
import { type BasePages, RamWriter } from './ram-writer.ts'
import { encodeRecord, recordLength, recordOffset } from './record.ts'
import type { SnapshotImage } from './snapshot-image.ts'
import { writeSums } from './sum-table.ts'

export interface WriterOptions {
  readonly base?: BasePages & { readonly id: string; checkSame(list: RamList): void }
  readonly compress?: boolean
}

/** Device states are joined to writes of this length. */
const stateBufferSize = 1024 * 1024

export interface SnapshotSummary {
  readonly id: string
  /** Bytes of RAM, and pages of it that are not zero. */
  readonly ramSize: number
  readonly normalPages: number
  /** Bytes of device states and what surrounds them. */
  readonly stateSize: number
}

export class SnapshotWriter {
  readonly #image: SnapshotImage
  readonly #options: WriterOptions
  readonly #leader: Uint8Array[] = []
  #leaderLength = 0
  #ramListOffset = 0
  #ram: RamWriter | undefined
  #devices: StateStream | undefined

  constructor(image: SnapshotImage, options: WriterOptions = {}) {
    this.#image = image
    this.#options = options
  }

  /** What precedes RAM in the stream; commands are left out. */
  leader(bytes: Uint8Array): void {
    this.#leaderLength += bytes.length
    if (this.#leaderLength > maxLeaderBytes) {
      throw new BlockError('UNSUPPORTED', `more than ${maxLeaderBytes} bytes in front of RAM`)
    }
    this.#leader.push(bytes.slice())
  }

  /** The list of RAM blocks, which belongs to the leader. */
  async ramList(list: RamList): Promise<void> {
    const blocks = placeBlocks(list.blocks)
    const { ram, name } = this.#image
    if (endOf(blocks) > ram.size) {
      throw new BlockError(
        'NO_SPACE',
        `${name}: the image is ${ram.size} bytes large, and RAM needs ${endOf(blocks)}`,
        { path: name, errno: 'ENOSPC' },
      )
    }
    this.#options.base?.checkSame(list)
    this.#ramListOffset = this.#leaderLength
    this.leader(list.bytes)
    const { base, compress } = this.#options
    this.#ram = new RamWriter({ ram, base, compress }, blocks, list.pageSize)
    // Whatever the image held, it is no snapshot from now on.
    await this.#image.state.write(0, new Uint8Array(stateHeader.size), plainWriteIo)
    await ram.flush(plainIo)
  }

  async records(records: RamRecords): Promise<void> {
    await this.#ram?.put(records)
  }

  /** What comes behind RAM, to the end of the stream. */
  async devices(bytes: Uint8Array): Promise<void> {
    this.#devices ??= await this.#startDevices()
    await this.#devices.write(bytes)
  }

  /** Makes it a snapshot: everything is on stable storage before the mark is, and then the mark. */
  async commit(): Promise<SnapshotSummary> {
    const ram = this.#ram
    const devices = this.#devices
    if (!ram || !devices) throw new TypeError('a snapshot without RAM or devices')
    await ram.finish()
    const { state } = this.#image
    const end = await devices.finish()
    const eofOffset = end - stateHeader.size
    if (eofOffset >= 2 ** 32) throw new BlockError('UNSUPPORTED', 'device states of over 4 GiB')
    const header = stateHeader.encode({
      ...{ magic: stateMagic, pageSize: ram.pageSize, normalPages: ram.normalPages },
      ...{ ramListOffset: this.#ramListOffset, deviceOffset: this.#leaderLength, eofOffset },
    })
    const id = randomBytes(16).toString('hex')
    const at = recordOffset(end)
    const sumsOffset = recordOffset(at + recordLength(ram.blocks.length))
    const hashed = await writeSums(state, sumsOffset, ram.sums)
    const record = encodeRecord({
      ...{ pageSize: ram.pageSize, id, baseId: this.#options.base?.id },
      ...{ created: Math.floor(Date.now() / 1000), ramEnd: endOf(ram.blocks), sumsOffset },
      blocksSent: ram.blocksSent,
      stateHash: stateHash(header, devices.digest()),
      ...hashed,
    })
    await state.write(end, new Uint8Array(at - end), plainWriteIo)
    await state.write(at, record, plainWriteIo)
    await this.#image.ram.flush(plainIo)
    await state.write(0, header, plainWriteIo)
    await this.#image.ram.flush(plainIo)
    const ramSize = ram.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0)
    return { id, ramSize, normalPages: ram.normalPages, stateSize: end }
  }

  /** Waits for what is under way. The image is no snapshot. */
  async abandon(): Promise<void> {
    await this.#ram?.abandon()
  }

  async #startDevices(): Promise<StateStream> {
    const stream = new StateStream(this.#image.state, stateHeader.size)
    for (const part of this.#leader) await stream.write(part)
    return stream
  }
}

/** Of the header and of everything behind it up to the record. */
export function stateHash(header: Uint8Array, restHash: Uint8Array): Uint8Array {
  return createHash('sha256').update(header).update(restHash).digest()
}

/** Bytes in order, into the area for VM state. */
class StateStream {
  readonly #state: VmState
  readonly #hash = createHash('sha256')
  readonly #buffer = new Uint8Array(stateBufferSize)
  #used = 0
  #offset: number

  constructor(state: VmState, offset: number) {
    this.#state = state
    this.#offset = offset
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes)
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + stateBufferSize - this.#used)
      this.#buffer.set(part, this.#used)
      this.#used += part.length
      at += part.length
      if (this.#used === stateBufferSize) await this.#flush()
    }
  }

  /** Where the last byte has gone, plus 1. */
  async finish(): Promise<number> {
    await this.#flush()
    return this.#offset
  }

  digest(): Uint8Array {
    return this.#hash.digest()
  }

  async #flush(): Promise<void> {
    if (this.#used === 0) return
    await this.#state.write(this.#offset, this.#buffer.subarray(0, this.#used), plainWriteIo)
    this.#offset += this.#used
    this.#used = 0
  }
}
