/** A qemu-io that keeps an image open until it is told to quit. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { peer } from '../peers.ts'

const qemuIo = peer('qemu-io')

export class QemuIoSession implements AsyncDisposable {
  readonly #child: ChildProcessWithoutNullStreams

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child
  }

  /** Resolves once the image is open; rejects with what qemu-io said when it cannot be. */
  static async open(...args: string[]): Promise<QemuIoSession> {
    const child = spawn(qemuIo.path ?? 'qemu-io', args)
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    const opened = new Promise<void>((resolve, reject) => {
      child.stdout.on('data', (chunk) => {
        if (`${chunk}`.includes('KiB') || `${chunk}`.includes('MiB')) resolve()
      })
      child.on('error', reject)
      child.on('close', (status) => reject(new Error(`qemu-io ended with ${status}: ${stderr}`)))
    })
    child.stdin.write('length\n')
    await opened
    return new QemuIoSession(child)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return
    const closed = once(this.#child, 'close')
    this.#child.stdin.end('quit\n')
    await closed
  }
}
