/** `keys.psk`: a line for each user, name and key in hexadecimal with a colon between. */
import { readFileSync } from 'node:fs'
import { BlockError, invalid, systemError } from '../errors.ts'

/** Bytes of the file; many thousands of users. */
const maxFileLength = 4 * 1024 * 1024

/** Bytes of a key; GnuTLS takes no shorter one. */
const minKeyLength = 4

export class PskFile {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  /**
   * The key of a user, read anew each time: who is added is known at once. Undefined when there is
   * none; throws when the file cannot be read or the key is none.
   */
  keyOf(user: string): Uint8Array | undefined {
    const line = this.#read()
      .split('\n')
      .find((each) => each.startsWith(`${user}:`))
    if (line === undefined || user === '') return undefined
    const key = line.slice(user.length + 1)
    if (!/^(?:[0-9a-fA-F]{2})*$/.test(key)) throw unusable('Error in parsing.')
    if (key.length < 2 * minKeyLength) throw unusable('The request is invalid.')
    return Buffer.from(key, 'hex')
  }

  #read(): string {
    let text: Buffer
    try {
      text = readFileSync(this.path)
    } catch (error) {
      throw systemError(error, `Unable to access credentials ${this.path}`, { path: this.path })
    }
    if (text.length <= maxFileLength) return text.toString('utf8')
    throw new BlockError('INVALID_ARGUMENT', `${this.path} has more than ${maxFileLength} bytes`)
  }
}

function unusable(reason: string): BlockError {
  return invalid(`Cannot set PSK client credentials: ${reason}`)
}
