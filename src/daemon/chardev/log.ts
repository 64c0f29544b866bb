/** `logfile`: a copy of all that is written to a device. */
import { closeSync, openSync, writeSync } from 'node:fs'
import { errnoOf, invalid, strerror } from '../../errors.ts'
import type { Chardev, Serve } from './chardev.ts'
import { LayeredStream } from './layered-stream.ts'

export interface LogOptions {
  readonly logfile?: string
  readonly logappend?: boolean
}

/** Opens the log first, then the device. */
export async function logged(
  { logfile, logappend = false }: LogOptions,
  open: () => Chardev | Promise<Chardev>,
): Promise<Chardev> {
  if (logfile === undefined) return await open()
  const log = openLog(logfile, logappend)
  try {
    return new LoggedDevice(await open(), log)
  } catch (error) {
    closeSync(log)
    throw error
  }
}

function openLog(path: string, append: boolean): number {
  try {
    return openSync(path, append ? 'a' : 'w', 0o666)
  } catch (error) {
    throw invalid(`Could not create '${path}': ${strerror(errnoOf(error) ?? 'EIO')}`)
  }
}

/** The device, with an ear on what is written to it. */
class LoggedDevice implements Chardev {
  readonly #device: Chardev
  readonly #log: number

  constructor(device: Chardev, log: number) {
    this.#device = device
    this.#log = log
  }

  get filename() {
    return this.#device.filename
  }

  get ready() {
    return this.#device.ready
  }

  get pty() {
    return this.#device.pty
  }

  get ring() {
    return this.#device.ring
  }

  get values() {
    return this.#device.values
  }

  get shared() {
    return this.#device.shared
  }

  attach(serve: Serve): void {
    const outgoing = (bytes: Uint8Array) => {
      writeWhatFits(this.#log, bytes)
      return bytes
    }
    this.#device.attach((client) => serve(new LayeredStream(client, { outgoing })))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#device[Symbol.asyncDispose]()
    closeSync(this.#log)
  }
}

/** A log that cannot be written does not keep its device from working. */
function writeWhatFits(log: number, bytes: Uint8Array): void {
  try {
    writeSync(log, bytes)
  } catch {}
}
