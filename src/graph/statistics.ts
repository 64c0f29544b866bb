/** Counters of one node, as `query-blockstats` reports them. Never reset while the node lives. */
export type RequestKind = 'read' | 'write' | 'writeZeroes' | 'discard' | 'flush'

export interface KindStatistics {
  operations: number
  bytes: number
  failed: number
  /** Refused before they began: not inside the disk. */
  invalid: number
}

export class NodeStatistics {
  readonly read: KindStatistics = newKind()
  readonly write: KindStatistics = newKind()
  readonly writeZeroes: KindStatistics = newKind()
  readonly discard: KindStatistics = newKind()
  readonly flush: KindStatistics = newKind()
  /** First byte behind the highest one ever written. */
  highestWritten = 0
}

function newKind(): KindStatistics {
  return { operations: 0, bytes: 0, failed: 0, invalid: 0 }
}
