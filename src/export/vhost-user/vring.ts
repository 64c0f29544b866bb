/** What a client has said of one queue, from when it is set up until it is stopped. */
import type { EventSet } from '../../sys/shared-memory.ts'
import { closeAll } from './guest-memory.ts'
import type { QueueService } from './queue-service.ts'
import type { QueuePlace } from './virtqueue.ts'

export class Vring {
  readonly index: number
  size = 0
  place: QueuePlace | undefined
  enabled = false
  /** The driver has told of requests since the queue was set up. */
  kicked = false
  /** Present while it runs. */
  service: QueueService | undefined
  #next = 0
  #kick: number | undefined
  #call: number | undefined
  #error: number | undefined

  constructor(index: number) {
    this.index = index
  }

  /** Index of the next entry of the available ring. */
  get next(): number {
    return this.service?.queue.next ?? this.#next
  }

  set next(index: number) {
    this.#next = index
    this.service = undefined
  }

  get call(): number | undefined {
    return this.#call
  }

  get error(): number | undefined {
    return this.#error
  }

  /** Takes over the descriptor; none ends it. */
  setKick(fd: number | undefined, events: EventSet): void {
    if (this.#kick !== undefined) events.delete(this.#kick)
    closeAll([this.#kick])
    this.#kick = fd
    if (fd !== undefined) events.add(fd, this.index)
  }

  setCall(fd: number | undefined): void {
    closeAll([this.#call])
    this.#call = fd
  }

  setError(fd: number | undefined): void {
    closeAll([this.#error])
    this.#error = fd
  }

  /** Where it runs in memory is to be looked up anew. */
  forget(): void {
    this.next = Number(this.next)
  }

  /** It is as if it had not been set up, but for what it is and who is told of answers. */
  stop(events: EventSet): void {
    this.forget()
    this.kicked = false
    this.setKick(undefined, events)
  }

  end(events: EventSet): void {
    this.stop(events)
    this.setCall(undefined)
    this.setError(undefined)
  }
}
