/**
 * What may not be done to a node for the time being, and why: a job blocks everything on the nodes
 * it works with. Whoever begins an operation asks first; permissions alone would not tell a second
 * job from a guest.
 */
import { BlockError } from '../errors.ts'

export type Operation =
  | 'backup-source'
  | 'backup-target'
  | 'change'
  | 'commit-source'
  | 'commit-target'
  | 'external-snapshot'
  | 'internal-snapshot'
  | 'internal-snapshot-delete'
  | 'mirror-source'
  | 'mirror-target'
  | 'remove'
  | 'replace'
  | 'resize'
  | 'stream'

interface Block {
  readonly reason: string
  /** Nothing is permitted unless given. */
  readonly except: ReadonlySet<Operation>
}

export class OperationBlockers {
  readonly #node: string
  readonly #blocks = new Set<Block>()

  constructor(node: string) {
    this.#node = node
  }

  /** Blocks everything but `except`, until the answer is called. */
  add(reason: string, except: Iterable<Operation> = []): () => void {
    const block = { reason, except: new Set(except) }
    this.#blocks.add(block)
    return () => {
      this.#blocks.delete(block)
    }
  }

  /** Throws `BUSY`, with the reason, when the operation is blocked. */
  check(operation: Operation): void {
    for (const { reason, except } of this.#blocks) {
      if (except.has(operation)) continue
      throw new BlockError('BUSY', `Node '${this.#node}' is busy: ${reason}`, {
        node: this.#node,
        errno: 'EBUSY',
      })
    }
  }
}
