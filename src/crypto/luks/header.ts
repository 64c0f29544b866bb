/** The LUKS header as the rest of varve sees it; decoding, encoding, and the judgement on it. */

import { BlockError, type BlockErrorCode } from '../../errors.ts'
import {
  type CipherSpec,
  checkSpec,
  cipherModes,
  findInFamily,
  type HashName,
  hashNames,
  ivGenerators,
  keyLengthOf,
} from '../cipher-spec.ts'
import { maxIterations } from '../hash.ts'
import {
  headerSectorSize,
  magic,
  materialAlignment,
  phdrStruct,
  slotCount,
  slotState,
  slotStruct,
  stripeCount,
  version,
} from './layout.ts'

export interface KeySlot {
  readonly active: boolean
  readonly iterations: number
  readonly salt: Uint8Array
  /** Bytes from the beginning of the header. */
  readonly offset: number
}

export interface LuksHeader {
  readonly spec: CipherSpec
  /** Of PBKDF2 and of the stripes. */
  readonly hash: HashName
  /** Bytes from the beginning of the header, where the disk begins. */
  readonly payloadOffset: number
  readonly digest: Uint8Array
  readonly digestSalt: Uint8Array
  readonly digestIterations: number
  readonly uuid: string
  readonly slots: readonly KeySlot[]
}

/** Bytes that the fields take. */
export const headerLength = phdrStruct.size

/** Decodes and checks `headerLength` bytes. Throws in QEMU's words. */
export function decodeHeader(head: Uint8Array): LuksHeader {
  if (head.length < headerLength || !magic.every((byte, at) => head[at] === byte)) {
    throw refuse('NOT_RECOGNISED', 'Volume is not in LUKS format', 'magic')
  }
  const fields = phdrStruct.decode(head)
  if (fields.version !== version) {
    throw refuse('UNSUPPORTED', `LUKS version ${fields.version} is not supported`, 'version')
  }
  const cipherName = text(fields.cipherName, 'cipher name', 'cipherName')
  const cipherMode = text(fields.cipherMode, 'cipher mode', 'cipherMode')
  const hashSpec = text(fields.hashSpec, 'hash spec', 'hashSpec')
  checkLayout(fields)
  return {
    spec: specOf(cipherName, cipherMode, fields.keyBytes),
    hash: hashOf(hashSpec, 'hashSpec'),
    payloadOffset: fields.payloadOffset * headerSectorSize,
    digest: fields.mkDigest,
    digestSalt: fields.mkDigestSalt,
    digestIterations: fields.mkDigestIter,
    uuid: textUpToNul(fields.uuid),
    slots: fields.slots.map((bytes) => {
      const { active, iterations, salt, keyMaterialOffset } = slotStruct.decode(bytes)
      const offset = keyMaterialOffset * headerSectorSize
      return { active: active === slotState.enabled, iterations, salt, offset }
    }),
  }
}

export function encodeHeader(header: LuksHeader): Uint8Array {
  const { spec } = header
  const ivHash = spec.ivGenerator === 'essiv' ? `:${spec.ivHash}` : ''
  return phdrStruct.encode({
    magic,
    version,
    cipherName: Buffer.from(spec.algorithm.family),
    cipherMode: Buffer.from(`${spec.mode}-${spec.ivGenerator}${ivHash}`),
    hashSpec: Buffer.from(header.hash),
    payloadOffset: header.payloadOffset / headerSectorSize,
    keyBytes: keyLengthOf(spec),
    mkDigest: header.digest,
    mkDigestSalt: header.digestSalt,
    mkDigestIter: header.digestIterations,
    uuid: Buffer.from(header.uuid),
    slots: header.slots.map(({ active, iterations, salt, offset }) =>
      slotStruct.encode({
        active: active ? slotState.enabled : slotState.disabled,
        iterations,
        salt,
        keyMaterialOffset: offset / headerSectorSize,
        stripes: stripeCount,
      }),
    ),
  })
}

type Fields = ReturnType<typeof phdrStruct.decode>

/** Where things lie, before anything is read there or memory is taken for it. */
function checkLayout(fields: Fields): void {
  const slots = fields.slots.map((bytes) => slotStruct.decode(bytes))
  const headerSectors = materialAlignment / headerSectorSize
  const { payloadOffset } = fields
  if (payloadOffset < headerSectors) {
    throw corrupt('LUKS payload is overlapping with the header', 'payloadOffset')
  }
  if (fields.mkDigestIter === 0) {
    throw corrupt('LUKS key iteration count is zero', 'mkDigestIter')
  }
  checkIterations(fields.mkDigestIter, 'LUKS key', phdrStruct.offsets.mkDigestIter)
  const length = Math.ceil((fields.keyBytes * stripeCount) / headerSectorSize)
  for (const [index, slot] of slots.entries()) {
    const at = slotAt(index)
    if (slot.stripes !== stripeCount) {
      throw corruptSlot(
        index,
        `is corrupted (stripes ${slot.stripes} != ${stripeCount})`,
        'stripes',
      )
    }
    if (slot.keyMaterialOffset < headerSectors) {
      throw corruptSlot(index, 'is overlapping with the LUKS header', 'keyMaterialOffset')
    }
    if (slot.active !== slotState.enabled && slot.active !== slotState.disabled) {
      throw corruptSlot(index, 'state (active/disable) is corrupted', 'active')
    }
    if (slot.active === slotState.enabled) {
      if (slot.iterations === 0) throw corruptSlot(index, 'iteration count is zero', 'iterations')
      checkIterations(slot.iterations, `Keyslot ${index}`, at + slotStruct.offsets.iterations)
    }
    if (slot.keyMaterialOffset + length > payloadOffset) {
      throw corruptSlot(index, 'is overlapping with the encrypted payload', 'keyMaterialOffset')
    }
    for (let other = index + 1; other < slotCount; other++) {
      const distance = Math.abs(slots[other].keyMaterialOffset - slot.keyMaterialOffset)
      if (distance >= length) continue
      throw corrupt(`Keyslots ${index} and ${other} are overlapping in the header`, 'slots')
    }
  }
}

function checkIterations(iterations: number, what: string, offset: number): void {
  if (iterations <= maxIterations) return
  throw new BlockError(
    'UNSUPPORTED',
    `${what} takes ${iterations} iterations; more than ${maxIterations} are refused`,
    { offset, errno: 'ENOTSUP' },
  )
}

/** `xts-plain64`, `cbc-essiv:sha256`, and what `keyBytes` of key make of the cipher's name. */
function specOf(family: string, modeText: string, keyBytes: number): CipherSpec {
  const parts = /^([^-]*)-([^:]*)(?::(.*))?$/s.exec(modeText)
  if (!parts) {
    throw unsupported(`Unexpected cipher mode string format '${printable(modeText)}'`, 'cipherMode')
  }
  const [, modeName, generatorName, hashName] = parts
  const mode = cipherModes.find((one) => one === modeName)
  if (!mode) throw unsupported(`Cipher mode '${printable(modeName)}' not supported`, 'cipherMode')
  const length = mode === 'xts' ? Math.floor(keyBytes / 2) : keyBytes
  const algorithm = findInFamily(family, length)
  if (!algorithm) {
    const name = printable(family)
    const what = `Algorithm '${name}' with key size ${length} bytes not supported`
    throw unsupported(what, 'cipherName')
  }
  if (mode === 'xts' && keyBytes % 2 !== 0) {
    throw corrupt('XTS cipher key length should be a multiple of 2', 'keyBytes')
  }
  const generator = ivGenerators.find((one) => one === generatorName)
  if (!generator) {
    throw unsupported(`IV generator '${printable(generatorName)}' not supported`, 'cipherMode')
  }
  const ivHash = generator === 'essiv' ? hashOf(hashName ?? '', 'cipherMode') : undefined
  const spec = { algorithm, mode, ivGenerator: generator, ivHash }
  checkSpec(spec)
  return spec
}

function hashOf(name: string, field: Field): HashName {
  const found = hashNames.find((one) => one === name)
  if (found) return found
  throw unsupported(`Hash algorithm '${printable(name)}' not supported`, field)
}

function text(field: Uint8Array, what: string, name: Field): string {
  if (field.includes(0)) return textUpToNul(field)
  throw corrupt(`LUKS header ${what} is not NUL terminated`, name)
}

function textUpToNul(field: Uint8Array): string {
  const end = field.indexOf(0)
  return printable(Buffer.from(end < 0 ? field : field.subarray(0, end)).toString('latin1'))
}

/** Texts come from strangers and go to terminals. */
function printable(value: string): string {
  return value.replace(/[^\x20-\x7e]/g, '?')
}

type Field = keyof typeof phdrStruct.offsets

function slotAt(index: number): number {
  return phdrStruct.offsets.slots + index * slotStruct.size
}

function corruptSlot(index: number, what: string, field: keyof typeof slotStruct.offsets) {
  const offset = slotAt(index) + slotStruct.offsets[field]
  return new BlockError('CORRUPT_IMAGE', `Keyslot ${index} ${what}`, { offset, errno: 'EINVAL' })
}

function corrupt(message: string, field: Field): BlockError {
  return refuse('CORRUPT_IMAGE', message, field)
}

function unsupported(message: string, field: Field): BlockError {
  return refuse('UNSUPPORTED', message, field)
}

function refuse(code: BlockErrorCode, message: string, field: Field): BlockError {
  const errno = code === 'UNSUPPORTED' ? 'ENOTSUP' : 'EINVAL'
  return new BlockError(code, message, { offset: phdrStruct.offsets[field], errno })
}
