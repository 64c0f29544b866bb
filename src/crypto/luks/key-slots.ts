/**
 * The key slots of an open header: eight places for the same key, each protected by a password.
 *
 * Order of writes. Only a slot that is marked as inactive is changed: material, salt and iterations
 * are on stable storage before it is marked as active, and it is marked as inactive before its salt
 * is forgotten and its material overwritten. The mark is written by itself, because the header takes
 * two sectors, of which a crash may leave one old and one new, and slot 6 lies in both. So a crash
 * never leaves a slot that counts as one but opens nothing, nor touches any other. Keys are overwritten in memory after use; what OpenSSL and the
 * collector have copied is out of reach.
 */
import { randomBytes, randomUUID, timingSafeEqual } from 'node:crypto'
import { BlockError } from '../../errors.ts'
import { afMerge, afSplit } from '../anti-forensic.ts'
import { keyLengthOf } from '../cipher-spec.ts'
import { diskCipher } from '../disk-cipher.ts'
import { pbkdf2 } from '../hash.ts'
import { iterationsFor } from '../pbkdf-speed.ts'
import {
  decodeHeader,
  encodeHeader,
  headerLength,
  type KeySlot,
  type LuksHeader,
} from './header.ts'
import { digestBytes, saltBytes, slotCount, stripeCount } from './layout.ts'
import { materialLength, payloadOffsetOf, slotOffset } from './slot-layout.ts'
import type { HeaderStorage } from './storage.ts'

export class KeySlots {
  readonly #storage: HeaderStorage
  #header: LuksHeader

  constructor(header: LuksHeader, storage: HeaderStorage) {
    this.#header = header
    this.#storage = storage
  }

  /** Reads and checks the header. */
  static async open(storage: HeaderStorage): Promise<KeySlots> {
    const head = new Uint8Array(headerLength)
    await storage.read(0, head)
    return new KeySlots(decodeHeader(head), storage)
  }

  get header(): LuksHeader {
    return this.#header
  }

  /** Indices of the slots that hold a key. */
  get active(): number[] {
    return this.#header.slots.flatMap(({ active }, index) => (active ? [index] : []))
  }

  /** The key of the disk. Throws `PERMISSION` when the password opens no slot. */
  async unlock(password: Uint8Array): Promise<Uint8Array> {
    for (const index of this.active) {
      const key = await this.tryUnlock(index, password)
      if (key) return key
    }
    throw new BlockError('PERMISSION', 'Invalid password, cannot unlock any keyslot', {
      errno: 'EPERM',
    })
  }

  /** The key, if the password is that of the slot. */
  async tryUnlock(index: number, password: Uint8Array): Promise<Uint8Array | undefined> {
    const { spec, hash, digest, digestSalt, digestIterations, slots } = this.#header
    const material = new Uint8Array(materialLength(spec))
    await this.#storage.read(slots[index].offset, material)
    const slotKey = await this.#slotKey(slots[index], password)
    diskCipher(spec, slotKey).decrypt(0, material, material)
    slotKey.fill(0)
    const length = keyLengthOf(spec)
    const key = afMerge(material.subarray(0, length * stripeCount), length, hash)
    material.fill(0)
    const found = await pbkdf2(hash, key, digestSalt, digestIterations, digestBytes)
    if (timingSafeEqual(found, digest)) return key
    key.fill(0)
    return undefined
  }

  /** Gives an inactive slot the key under a password that takes `timeMs` to try. */
  async fill(index: number, key: Uint8Array, password: Uint8Array, timeMs: number): Promise<void> {
    const { spec, hash, slots } = this.#header
    const slot: KeySlot = {
      active: true,
      iterations: await iterationsFor(hash, keyLengthOf(spec), timeMs),
      salt: randomBytes(saltBytes),
      offset: slots[index].offset,
    }
    const material = new Uint8Array(materialLength(spec))
    material.set(afSplit(key, stripeCount, hash))
    const slotKey = await this.#slotKey(slot, password)
    diskCipher(spec, slotKey).encrypt(0, material, material)
    slotKey.fill(0)
    await this.#mark(index, false)
    await this.#storage.write(slot.offset, material)
    await this.#storage.flush()
    await this.#replace(index, { ...slot, active: false })
    await this.#mark(index, true)
  }

  /** Makes a slot inactive and destroys what it held. */
  async erase(index: number): Promise<void> {
    const { spec, slots } = this.#header
    const { offset } = slots[index]
    await this.#mark(index, false)
    await this.#replace(index, { ...unusedSlot, offset })
    await this.#storage.write(offset, randomBytes(materialLength(spec)))
    await this.#storage.flush()
  }

  /** Changes nothing else. A new header is written whole by that. */
  async #mark(index: number, active: boolean): Promise<void> {
    await this.#replace(index, { ...this.#header.slots[index], active })
  }

  async #replace(index: number, slot: KeySlot): Promise<void> {
    const slots = this.#header.slots.with(index, slot)
    const header = { ...this.#header, slots }
    await this.#storage.write(0, encodeHeader(header))
    await this.#storage.flush()
    this.#header = header
  }

  async #slotKey({ salt, iterations }: KeySlot, password: Uint8Array): Promise<Uint8Array> {
    const { hash, spec } = this.#header
    return await pbkdf2(hash, password, salt, iterations, keyLengthOf(spec))
  }
}

const unusedSlot = { active: false, iterations: 0, salt: new Uint8Array(saltBytes) }

/** What a new header consists of, apart from its random parts. */
export interface NewHeader {
  readonly spec: LuksHeader['spec']
  readonly hash: LuksHeader['hash']
  /** Milliseconds that one try of a password takes. */
  readonly iterTimeMs: number
}

/** A header with a new key, which is its caller's to overwrite, and no active slot. */
export async function newHeader({
  spec,
  hash,
  iterTimeMs,
}: NewHeader): Promise<{ header: LuksHeader; key: Uint8Array }> {
  const key = randomBytes(keyLengthOf(spec))
  const digestSalt = randomBytes(saltBytes)
  // As cryptsetup and QEMU have it, an eighth of the time goes here.
  const digestIterations = await iterationsFor(hash, digestBytes, iterTimeMs / 8)
  const slots = Array.from({ length: slotCount }, (_, index) => ({
    ...unusedSlot,
    offset: slotOffset(spec, index),
  }))
  const header: LuksHeader = {
    spec,
    hash,
    payloadOffset: payloadOffsetOf(spec),
    digest: await pbkdf2(hash, key, digestSalt, digestIterations, digestBytes),
    digestSalt,
    digestIterations,
    uuid: randomUUID(),
    slots,
  }
  return { header, key }
}
