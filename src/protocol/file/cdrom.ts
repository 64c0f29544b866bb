/** A drive of this machine, with whatever medium is in it: driver `host_cdrom`. */
import type { Medium } from '../../block/abilities.ts'
import type { Completion, Io, WriteIo, ZeroIo } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import { deviceIoctl } from './device.ts'
import { FileLayer, type FileLayerOptions } from './file-layer.ts'
import type { OpenFile } from './open-file.ts'

/** Linux, uapi/linux/cdrom.h */
const CDROMEJECT = 0x5309
const CDROMCLOSETRAY = 0x5319
const CDROM_DRIVE_STATUS = 0x5326
const CDROM_LOCKDOOR = 0x5329
const CDS_DISC_OK = 4
/** The slot of a changer that is in use. */
const CDSL_CURRENT = 0x7fffffff

/**
 * Asks for the medium before each request: it may have been taken out by its button. Where the
 * system cannot be asked, there is none.
 */
export class CdromLayer extends FileLayer {
  readonly #drive: OpenFile

  constructor(drive: OpenFile, options: FileLayerOptions) {
    super(drive, options)
    this.#drive = drive
  }

  readonly medium: Medium & { wasInserted: boolean } = {
    isInserted: () => this.#isInserted(),
    wasInserted: false,
    eject: async (open) => {
      await deviceIoctl(this.#drive, open ? CDROMEJECT : CDROMCLOSETRAY, 0)
    },
    lock: async (locked) => {
      await deviceIoctl(this.#drive, CDROM_LOCKDOOR, locked ? 1 : 0)
    },
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#withMedium(() => super.read(offset, target, io))
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.#withMedium(() => super.write(offset, source, io))
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#withMedium(() => super.writeZeroes(offset, length, io))
  }

  override discard(offset: number, length: number, io: Io): Promise<void> {
    return this.#withMedium(() => super.discard(offset, length, io))
  }

  async #withMedium(work: () => Completion): Promise<void> {
    if (!(await this.#isInserted())) {
      const { path, node } = this.#drive
      throw new BlockError('IO', `${path}: no medium`, { path, node, errno: 'ENOMEDIUM' })
    }
    await work()
  }

  async #isInserted(): Promise<boolean> {
    const inserted = (await this.#status()) === CDS_DISC_OK
    if (inserted && !this.medium.wasInserted) await this.reread()
    this.medium.wasInserted = inserted
    return inserted
  }

  /** Undefined where the device is no drive, as with everything that does not know the question. */
  async #status(): Promise<number | undefined> {
    try {
      return await deviceIoctl(this.#drive, CDROM_DRIVE_STATUS, CDSL_CURRENT)
    } catch (error) {
      if (error instanceof BlockError) return undefined
      throw error
    }
  }
}
