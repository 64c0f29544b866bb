/**
 * Space for enciphered data. LUKS counts sectors where they lie in the file, so that one layer
 * serves all; the older AES counts them as the guest does, and has a layer for each distance
 * between the two.
 */
import { CipherLayer } from '../../../block/cipher-layer.ts'
import type { BlockLayer, Completion, Io } from '../../../block/layer.ts'
import type { SectorCipher } from '../../../crypto/sector-cipher.ts'
import type { FreeReason } from '../frees.ts'
import type { GuestSpace } from '../guest-space.ts'
import type { HostOffset, HostRun } from '../offsets.ts'

export class EncryptedSpace implements GuestSpace {
  readonly enciphered = true
  readonly layer: BlockLayer
  readonly #inner: GuestSpace
  readonly #cipher: SectorCipher
  readonly #counts: 'guest' | 'host'

  constructor(inner: GuestSpace, cipher: SectorCipher, counts: 'guest' | 'host') {
    this.layer = new CipherLayer(inner.layer, cipher)
    this.#inner = inner
    this.#cipher = cipher
    this.#counts = counts
  }

  get size(): number {
    return this.#inner.size
  }

  layerAt(host: number, guest: number): BlockLayer {
    if (this.#counts === 'host' || host === guest) return this.layer
    return new CipherLayer(this.#inner.layer, this.#cipher, guest - host)
  }

  take(count: number, guest: number): HostRun | Promise<HostRun> {
    return this.#inner.take(count, guest)
  }

  giveBack(run: HostRun): Completion {
    return this.#inner.giveBack(run)
  }

  free(offset: HostOffset, count: number, reason: FreeReason): void {
    this.#inner.free(offset, count, reason)
  }

  /** Nothing that was never written deciphers to zeroes. */
  claim(offset: number, length: number): boolean {
    this.#inner.claim(offset, length)
    return false
  }

  flush(io: Io): Completion {
    return this.#inner.flush(io)
  }
}
