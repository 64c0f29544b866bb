/** Key slots added and erased, as `amend` asks for it; rules and words are QEMU's. */

import type { AmendOptions } from '../../block/abilities.ts'
import type { SecretSource } from '../../block/driver.ts'
import { OptionReader } from '../../block/options.ts'
import { findSecret } from '../../block/secrets.ts'
import type { KeySlots } from '../../crypto/luks/key-slots.ts'
import { slotCount } from '../../crypto/luks/layout.ts'
import { invalid } from '../../errors.ts'
import { defaultIterTimeMs, parseIterTime } from './luks-options.ts'

interface KeyAmendment {
  readonly state: 'active' | 'inactive'
  readonly newSecret?: string
  readonly oldSecret?: string
  /** Names the password that the key is taken out by; the one that opened the disk unless given. */
  readonly secret?: string
  readonly slot?: number
  readonly iterTimeMs?: number
}

/** `keySecret` names the password that opened the disk. */
export async function amendKeys(
  keys: KeySlots,
  { options, force = false }: AmendOptions,
  keySecret: string | undefined,
  secrets: SecretSource | undefined,
): Promise<void> {
  const wanted = parseKeyAmendment(options)
  if (wanted.state === 'active') await activate(keys, wanted, keySecret, secrets, force)
  else await deactivate(keys, wanted, secrets, force)
}

function parseKeyAmendment(options: Readonly<Record<string, unknown>>): KeyAmendment {
  const reader = new OptionReader(options)
  const state = reader.oneOf('state', ['active', 'inactive'])
  const amendment = {
    newSecret: reader.string('new-secret'),
    oldSecret: reader.string('old-secret'),
    secret: reader.string('secret'),
    slot: reader.integer('keyslot'),
    iterTimeMs: parseIterTime(reader, ''),
  }
  reader.finish()
  if (state === undefined) throw invalid("Parameter 'state' is missing")
  return { state, ...amendment }
}

async function activate(
  keys: KeySlots,
  { newSecret, oldSecret, secret, slot, iterTimeMs = defaultIterTimeMs }: KeyAmendment,
  openedBy: string | undefined,
  secrets: SecretSource | undefined,
  force: boolean,
): Promise<void> {
  if (newSecret === undefined) throw invalid("'new-secret' is required to activate a keyslot")
  if (oldSecret !== undefined) {
    throw invalid("'old-secret' must not be given when activating keyslots")
  }
  if (slot !== undefined) {
    checkSlot(slot)
    if (keys.header.slots[slot].active && !force) {
      throw invalid(`Refusing to overwrite active keyslot ${slot} - please erase it first`)
    }
  }
  const target = slot ?? keys.header.slots.findIndex(({ active }) => !active)
  if (target < 0) throw invalid("Can't add a keyslot - all keyslots are in use")
  const password = await findSecret(secrets, newSecret)
  const keySecret = secret ?? openedBy
  if (keySecret === undefined) throw invalid("Parameter 'key-secret' is required for cipher")
  const key = await keys.unlock(await findSecret(secrets, keySecret))
  try {
    await putKey(keys, target, key, password, iterTimeMs)
  } finally {
    key.fill(0)
  }
}

/**
 * Writes the key into a slot. If that is the only active one, the key is kept in another one
 * meanwhile: whenever a crash comes, one of them opens.
 */
async function putKey(
  keys: KeySlots,
  slot: number,
  key: Uint8Array,
  password: Uint8Array,
  timeMs: number,
): Promise<void> {
  const only = keys.active.length === 1 && keys.active[0] === slot
  if (!only) return await keys.fill(slot, key, password, timeMs)
  const spare = (slot + 1) % slotCount
  await keys.fill(spare, key, password, timeMs)
  await keys.fill(slot, key, password, timeMs)
  await keys.erase(spare)
}

async function deactivate(
  keys: KeySlots,
  { newSecret, oldSecret, slot, iterTimeMs }: KeyAmendment,
  secrets: SecretSource | undefined,
  force: boolean,
): Promise<void> {
  if (newSecret !== undefined) {
    throw invalid("'new-secret' must not be given when erasing keyslots")
  }
  if (iterTimeMs !== undefined) {
    throw invalid("'iter-time' must not be given when erasing keyslots")
  }
  const password = oldSecret === undefined ? undefined : await findSecret(secrets, oldSecret)
  if (slot !== undefined) await eraseSlot(keys, slot, password, force)
  else if (password) await eraseMatching(keys, password, force)
  else {
    throw invalid(
      'To erase keyslot(s), either explicit keyslot index or the password currently ' +
        'contained in them must be given',
    )
  }
}

async function eraseSlot(
  keys: KeySlots,
  slot: number,
  password: Uint8Array | undefined,
  force: boolean,
): Promise<void> {
  checkSlot(slot)
  if (password && !(await opens(keys, slot, password))) {
    throw invalid(
      `Given keyslot ${slot} doesn't contain the given old password for erase operation`,
    )
  }
  if (!force && !keys.header.slots[slot].active) {
    throw invalid(`Given keyslot ${slot} is already erased (inactive) `)
  }
  if (!force && keys.active.length === 1) {
    throw invalid(
      `Attempt to erase the only active keyslot ${slot} which will erase all the data in the ` +
        'image irreversibly - refusing operation',
    )
  }
  await keys.erase(slot)
}

async function eraseMatching(keys: KeySlots, password: Uint8Array, force: boolean): Promise<void> {
  const matching: number[] = []
  for (const slot of keys.active) if (await opens(keys, slot, password)) matching.push(slot)
  if (matching.length === 0) {
    throw invalid('No keyslots match given (old) password for erase operation')
  }
  if (!force && matching.length === keys.active.length) {
    throw invalid(
      'All the active keyslots match the (old) password that was given and erasing them will ' +
        'erase all the data in the image irreversibly - refusing operation',
    )
  }
  for (const slot of matching) await keys.erase(slot)
}

async function opens(keys: KeySlots, slot: number, password: Uint8Array): Promise<boolean> {
  if (!keys.header.slots[slot].active) return false
  const key = await keys.tryUnlock(slot, password)
  key?.fill(0)
  return key !== undefined
}

/** Numbers of 32 bits without a sign, as QEMU shows them. */
function checkSlot(slot: number): void {
  if (slot >= 0 && slot < slotCount) return
  const shown = slot < 0 ? slot + 2 ** 32 : slot
  throw invalid(`Invalid keyslot ${shown} specified, must be between 0 and ${slotCount - 1}`)
}
