/** Nothing comes, and what is written is gone. */
import { Duplex } from 'node:stream'
import type { Chardev } from './chardev.ts'
import { SingleStream } from './single-stream.ts'

export function openNull(): Chardev {
  return new SingleStream('null', new NullStream())
}

class NullStream extends Duplex {
  override _read(): void {}

  override _write(_bytes: Buffer, _encoding: string, done: () => void): void {
    done()
  }
}
