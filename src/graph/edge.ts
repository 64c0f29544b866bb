/**
 * One use of a node: by a parent node, or by somebody outside the graph (an export, a job, a
 * caller). It says what the user does and what it lets others do, and it is the `BlockLayer` that
 * the user works with, so a node can be put in between without the user noticing.
 */

import type {
  BackingLink,
  CompressedWriter,
  GivenSize,
  ImageFacts,
  Medium,
  PreservedDisk,
  VmState,
} from '../block/abilities.ts'
import type { DebugEvent } from '../block/debug.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  ResizeIo,
  WriteIo,
  ZeroIo,
} from '../block/layer.ts'
import {
  type ChildRole,
  everyPermission,
  noPermission,
  type Permission,
  type Permissions,
} from '../block/permission.ts'
import { BlockError } from '../errors.ts'
import type { BlockNode } from './node.ts'

/** Who stands at the upper end: a node, by name, or somebody outside, described for messages. */
export type EdgeUser = { readonly node: string } | { readonly description: string }

/** Called when a node is drained: no new work is begun, and what is under way has ended, after `begin`. */
export interface DrainHandler {
  begin(): Promise<void>
  end(): void
}

export interface EdgeSettings extends Permissions {
  readonly role: ChildRole | 'root'
  /** As the user calls this child, where that is not after the role. */
  readonly name?: string
  readonly user: EdgeUser
  readonly drain?: DrainHandler
  /** It is this very node that is used: when other users get another one in its place, it stays. */
  readonly stays?: boolean
  /** Called once, when the user lets go. */
  readonly release: (edge: Edge) => Promise<void>
}

export class Edge implements BlockLayer {
  readonly role: ChildRole | 'root'
  /** The child's name at its parent. */
  readonly name: string
  readonly user: EdgeUser
  readonly drain: DrainHandler | undefined
  readonly stays: boolean
  /** The node at the upper end, once it is open; undefined for users outside the graph. */
  owner: BlockNode | undefined
  /** Who relies on this edge staying where it is, if anybody does; as messages name them. */
  frozen: string | undefined
  /** The layer's. A field, since it is looked at with every request. */
  debugEvent: ((event: DebugEvent) => Completion) | undefined
  #node: BlockNode
  #permissions: Permissions
  #readable = false
  #writable = false
  #writesUnchanged = false
  #resizable = false
  #released = false
  /** While drained, the promise that new requests wait for. */
  #gate: Promise<void> | undefined
  #openGate: (() => void) | undefined
  #quiesced = 0
  readonly #release: (edge: Edge) => Promise<void>

  /** Made by the graph only. */
  constructor(node: BlockNode, settings: EdgeSettings) {
    this.role = settings.role
    this.name = settings.name ?? (settings.role === 'filtered' ? 'file' : settings.role)
    this.user = settings.user
    this.drain = settings.drain
    this.stays = settings.stays ?? false
    this.#node = node
    this.debugEvent = node.layer.debugEvent
    this.#release = settings.release
    this.#permissions = settings
    this.grant(settings)
  }

  get node(): BlockNode {
    return this.#node
  }

  get uses(): ReadonlySet<Permission> {
    return this.#permissions.uses
  }

  get shares(): ReadonlySet<Permission> {
    return this.#permissions.shares
  }

  get size(): number {
    return this.#node.size
  }

  get capabilities(): Capabilities {
    return this.#node.layer.capabilities
  }

  get limits(): Limits {
    return this.#node.layer.limits
  }

  get image(): ImageFacts | undefined {
    return this.#node.layer.image
  }

  get compressed(): CompressedWriter | undefined {
    const below = this.#node.compressed
    if (!below) return undefined
    const write: CompressedWriter['write'] = (offset, source, io) => {
      if (this.#gate) return this.#gate.then(() => write(offset, source, io))
      if (!this.#writable) this.#refuse('write')
      return below.write(offset, source, io)
    }
    return { unit: below.unit, write }
  }

  get vmState(): VmState | undefined {
    const below = this.#node.vmState
    if (!below) return undefined
    const read: VmState['read'] = (offset, target, io) => {
      if (this.#gate) return this.#gate.then(() => read(offset, target, io))
      if (!this.#readable) this.#refuse('consistentRead')
      return below.read(offset, target, io)
    }
    const write: VmState['write'] = (offset, source, io) => {
      if (this.#gate) return this.#gate.then(() => write(offset, source, io))
      if (!this.#writable) this.#refuse('write')
      return below.write(offset, source, io)
    }
    return { read, write }
  }

  get sizeIsGiven(): GivenSize | undefined {
    return this.#node.layer.sizeIsGiven
  }

  get medium(): Medium | undefined {
    return this.#node.layer.medium
  }

  /** What may be done by it is for the system to say, which knows how the device was opened. */
  get ioctl(): BlockLayer['ioctl'] {
    if (!this.#node.layer.ioctl) return undefined
    const ioctl = async (request: number, argument: Uint8Array | number): Promise<number> => {
      if (this.#gate) return this.#gate.then(() => ioctl(request, argument))
      if (!this.#readable) this.#refuse('consistentRead')
      return await this.#node.ioctl(request, argument)
    }
    return ioctl
  }

  get backingLink(): BackingLink | undefined {
    return this.#node.layer.backingLink
  }

  /** Passes no seam of the node, whose own requests it does not touch; drains hold it back. */
  get preserved(): PreservedDisk | undefined {
    const below = this.#node.layer.preserved
    if (!below) return undefined
    const when = <T>(work: () => Promise<T>): Promise<T> =>
      this.#gate ? this.#gate.then(() => when(work)) : work()
    return {
      size: below.size,
      read: (offset, target, io) => when(() => below.read(offset, target, io)),
      extentAt: (offset, length, io) => when(() => below.extentAt(offset, length, io)),
      discard: (offset, length, io) => when(() => below.discard(offset, length, io)),
    }
  }

  read(offset: number, target: Uint8Array, io?: Partial<Io>): Completion {
    if (this.#gate) return this.#gate.then(() => this.read(offset, target, io))
    if (!this.#readable) this.#refuse('consistentRead')
    return this.#node.read(offset, target, io)
  }

  write(offset: number, source: Uint8Array, io?: Partial<WriteIo>): Completion {
    if (this.#gate) return this.#gate.then(() => this.write(offset, source, io))
    if (!this.#writable) this.#checkUnchanged(io)
    return this.#node.write(offset, source, io)
  }

  writeZeroes(offset: number, length: number, io?: Partial<ZeroIo>): Completion {
    if (this.#gate) return this.#gate.then(() => this.writeZeroes(offset, length, io))
    if (!this.#writable) this.#checkUnchanged(io)
    return this.#node.writeZeroes(offset, length, io)
  }

  discard(offset: number, length: number, io?: Partial<Io>): Completion {
    if (this.#gate) return this.#gate.then(() => this.discard(offset, length, io))
    if (!this.#writable) this.#refuse('write')
    return this.#node.discard(offset, length, io)
  }

  flush(io?: Partial<Io>): Completion {
    if (this.#gate) return this.#gate.then(() => this.flush(io))
    if (this.#released) this.#refuse('consistentRead')
    return this.#node.flush(io)
  }

  /** See `BlockLayer`. Needs to read, and to write what is unchanged. */
  async populate(offset: number, length: number, io?: Partial<Io>): Promise<void> {
    if (this.#gate) return this.#gate.then(() => this.populate(offset, length, io))
    if (!this.#readable) this.#refuse('consistentRead')
    if (!this.#writable) this.#checkUnchanged({ unchanged: true })
    await this.#node.populate(offset, length, io)
  }

  get driver(): string {
    return this.#node.driver
  }

  get extend(): BlockLayer['extend'] {
    if (!this.#node.layer.extend) return undefined
    const extend = async (end: number, io: Io): Promise<void> => {
      if (this.#gate) return this.#gate.then(() => extend(end, io))
      if (!this.#resizable) this.#refuse('resize')
      await this.#node.extend(end, io)
    }
    return extend
  }

  get occupy(): BlockLayer['occupy'] {
    if (!this.#node.layer.occupy) return undefined
    const occupy = async (offset: number, length: number, io: Io): Promise<void> => {
      if (this.#gate) return this.#gate.then(() => occupy(offset, length, io))
      if (!this.#writable) this.#checkUnchanged({ unchanged: true })
      await this.#node.occupy(offset, length, io)
    }
    return occupy
  }

  truncate(size: number, io?: Partial<ResizeIo>): Completion {
    if (this.#gate) return this.#gate.then(() => this.truncate(size, io))
    if (!this.#resizable) this.#refuse('resize')
    return this.#node.truncate(size, io)
  }

  extentAt(offset: number, length: number, io?: Partial<Io>): Extent | Promise<Extent> {
    if (this.#released) this.#refuse('consistentRead')
    return this.#node.extentAt(offset, length, io)
  }

  /** Lets go of the node; nodes that nobody else keeps are closed. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#released) return
    this.#released = true
    this.grant({ uses: noPermission, shares: everyPermission })
    await this.#release(this)
  }

  /** For the graph: points the edge at another node. */
  retarget(node: BlockNode): void {
    this.#node = node
    this.debugEvent = node.layer.debugEvent
  }

  /** For the graph: puts permissions in force. */
  grant({ uses, shares }: Permissions): void {
    this.#permissions = { uses, shares }
    // Nobody from outside the graph works with an inactive node.
    const { active } = this.#node
    const may = (permission: Permission) => uses.has(permission) && (active || this.role !== 'root')
    // What a node reads of its children is its own affair: a copy is read back, for example.
    this.#readable = may('consistentRead') || (this.role !== 'root' && !this.#released)
    this.#writable = may('write')
    this.#writesUnchanged = may('writeUnchanged')
    this.#resizable = may('resize')
  }

  /** For the graph: new requests wait until as many calls of `resume`. */
  quiesce(): void {
    if (this.#quiesced++ > 0) return
    this.#gate = new Promise((resolve) => {
      this.#openGate = resolve
    })
  }

  resume(): void {
    if (--this.#quiesced > 0) return
    this.#gate = undefined
    this.#openGate?.()
  }

  #checkUnchanged(io: Partial<WriteIo> | undefined): void {
    if (!(io?.unchanged && this.#writesUnchanged)) this.#refuse('write')
  }

  #refuse(permission: Permission): never {
    const { name, readOnly } = this.#node
    if (this.#released) throw new BlockError('CLOSED', `${name} is closed`, { node: name })
    if (!this.#node.active) {
      throw new BlockError('BUSY', `Node '${name}' is inactive: another process may use it`, {
        node: name,
        errno: 'EPERM',
      })
    }
    throw new BlockError(
      permission !== 'consistentRead' && readOnly ? 'READ_ONLY' : 'PERMISSION',
      `${describeUser(this)} has no permission to ${verbs[permission]} ${name}`,
      { node: name, errno: 'EPERM' },
    )
  }
}

const verbs: Readonly<Record<Permission, string>> = {
  consistentRead: 'read',
  write: 'write to',
  writeUnchanged: 'rewrite',
  resize: 'resize',
}

/** The user of an edge, as messages name it. */
export function describeUser(edge: Edge): string {
  return 'node' in edge.user ? `node '${edge.user.node}'` : edge.user.description
}
