/** Certificates in the files that QEMU looks for. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { systemError } from '../../errors.ts'
import type { TlsCredentials } from './tls.ts'

/** Reads `ca-cert.pem`, `server-cert.pem` and `server-key.pem` of a folder. */
export function readTlsCredentials(directory: string, verifyPeer: boolean): TlsCredentials {
  const read = (name: string) => readCredential(path.join(directory, name))
  return {
    ca: read('ca-cert.pem'),
    cert: read('server-cert.pem'),
    key: read('server-key.pem'),
    verifyPeer,
  }
}

function readCredential(file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    throw systemError(error, `Unable to access credentials ${file}`, { path: file })
  }
}
