/** A real virtual machine with one disk, stopped, and its human monitor. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'

const prompt = '(qemu) '

export class QemuMonitor implements AsyncDisposable {
  readonly #child: ChildProcessWithoutNullStreams
  /** Rejects when the machine ends. */
  readonly #gone: Promise<never>
  #output = ''

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child
    child.stdout.on('data', (bytes: Buffer) => {
      this.#output += bytes.toString()
    })
    this.#gone = once(child, 'exit').then(([code]) => {
      throw new Error(`qemu ended with ${code}: ${this.#output}`)
    })
    this.#gone.catch(() => {})
  }

  static async start(image: string): Promise<QemuMonitor> {
    const args = ['-accel', 'tcg', '-m', '16', '-nodefaults', '-display', 'none', '-S']
    const drive = `file=${image},format=qcow2,if=none,id=d0`
    const disk = ['-drive', drive, '-device', 'virtio-blk-pci,drive=d0', '-monitor', 'stdio']
    const monitor = new QemuMonitor(spawn('qemu-system-x86_64', [...args, ...disk]))
    await monitor.#prompt()
    return monitor
  }

  /** Runs one command; what it prints, without the echo of the command. */
  async command(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`)
    const text = await this.#prompt()
    return text.slice(text.indexOf('\n') + 1).trim()
  }

  async quit(): Promise<void> {
    if (this.#child.exitCode !== null) return
    const gone = once(this.#child, 'exit')
    this.#child.stdin.write('quit\n')
    await gone
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.quit()
  }

  /** Waits for the prompt; what came before it. */
  async #prompt(): Promise<string> {
    while (!this.#output.endsWith(prompt)) {
      const more = new Promise((resolve) => this.#child.stdout.once('data', resolve))
      await Promise.race([more, this.#gone])
    }
    const text = this.#output.slice(0, -prompt.length)
    this.#output = ''
    return text
  }
}
