/** Hash functions, and PBKDF2. */
import { hash, pbkdf2 as nodePbkdf2 } from 'node:crypto'
import { promisify } from 'node:util'
import type { HashName } from './cipher-spec.ts'

export function digest(name: HashName, bytes: Uint8Array): Uint8Array {
  return hash(name, bytes, 'buffer')
}

/** Most iterations that are done for anybody: minutes on any machine of today. */
export const maxIterations = 2 ** 28

const derive = promisify(nodePbkdf2)

/** `length` bytes of key. Works in a thread of the pool, and cannot be aborted. */
export async function pbkdf2(
  name: HashName,
  password: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  length: number,
): Promise<Uint8Array> {
  return await derive(password, salt, iterations, length, name)
}
