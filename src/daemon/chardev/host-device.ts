/** `serial` and `parallel`: devices of this machine. */
import { closeSync, constants } from 'node:fs'
import { errnoOf, invalid, strerror, unsupported } from '../../errors.ts'
import { sys } from '../../sys/current.ts'
import type { Chardev, ChardevData } from './chardev.ts'
import { openOrSay } from './file.ts'
import { PolledStream } from './polled-stream.ts'
import { SingleStream } from './single-stream.ts'
import { makeSerialLine, requireTerminals } from './terminal.ts'

const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants

/** linux/ppdev.h */
const PPCLAIM = 0x708b

export async function openSerial({ device }: ChardevData<'serial'>): Promise<Chardev> {
  const fd = openOrSay(device, O_RDWR + O_NOCTTY + O_NONBLOCK)
  try {
    requireTerminals()
    // What is no terminal is taken as it is, as in QEMU.
    await makeSerialLine(fd).catch(() => {})
  } catch (error) {
    closeSync(fd)
    throw error
  }
  return new SerialDevice(fd)
}

class SerialDevice extends SingleStream {
  readonly #fd: number

  constructor(fd: number) {
    super('serial', new PolledStream(fd))
    this.#fd = fd
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]()
    closeSync(this.#fd)
  }
}

/** Finds fault as QEMU does, and goes no further: no monitor is on a printer's port. */
export async function openParallel({ device }: ChardevData<'parallel'>): Promise<Chardev> {
  const fd = openOrSay(device, O_RDWR)
  try {
    await sys().ioctl(fd, PPCLAIM, new Uint8Array(0))
  } catch (error) {
    throw invalid(`not a parallel port: ${strerror(errnoOf(error) ?? 'EIO')}`)
  } finally {
    closeSync(fd)
  }
  throw unsupported('parallel chardevs are not supported')
}
