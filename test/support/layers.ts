/** Layers that make time visible: requests that take a turn, or that wait until a test lets them go. */
import { setImmediate } from 'node:timers/promises'
import { Filter } from '../../src/block/filter.ts'
import type { BlockLayer, Io, Limits, WriteIo, ZeroIo } from '../../src/block/layer.ts'
import type { ChildRole, Permissions } from '../../src/block/permission.ts'

/** Every request takes a turn of the event loop before it begins and one before it ends. */
export class SlowLayer extends Filter {
  readonly #limits: Partial<Limits>

  constructor(next: BlockLayer, limits: Partial<Limits> = {}) {
    super(next)
    this.#limits = limits
  }

  override get limits(): Limits {
    return { ...this.next.limits, ...this.#limits }
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    await setImmediate()
    await this.next.read(offset, target, io)
    await setImmediate()
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await setImmediate()
    await this.next.write(offset, source, io)
    await setImmediate()
  }

  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    await setImmediate()
    await this.next.writeZeroes(offset, length, io)
    await setImmediate()
  }
}

/** Requests wait behind a gate, and are counted while they are in flight. */
export class GatedLayer extends Filter {
  inFlight = 0
  /** Names of the requests that came this far, in order. */
  readonly arrived: string[] = []
  #gate: Promise<void> | undefined
  #open = () => {}

  close(): void {
    this.#gate = new Promise((resolve) => {
      this.#open = resolve
    })
  }

  open(): void {
    this.#gate = undefined
    this.#open()
  }

  override read(offset: number, target: Uint8Array, io: Io) {
    return this.#pass('read', () => this.next.read(offset, target, io))
  }

  override write(offset: number, source: Uint8Array, io: WriteIo) {
    return this.#pass('write', () => this.next.write(offset, source, io))
  }

  override flush(io: Io) {
    return this.#pass('flush', () => this.next.flush(io))
  }

  async #pass(name: string, work: () => void | Promise<void>): Promise<void> {
    this.inFlight++
    this.arrived.push(name)
    try {
      if (name === 'flush') await setImmediate()
      else await this.#gate
      await work()
    } finally {
      this.inFlight--
    }
  }
}

/** Needs of its child what a test gives it. */
export class DemandingFilter extends Filter {
  readonly #demands: Permissions
  closed = false

  constructor(next: BlockLayer, demands: Permissions) {
    super(next)
    this.#demands = demands
  }

  childPermissions(_role: ChildRole, _needs: Permissions): Permissions {
    return this.#demands
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true
  }
}
