/** Counters of one node, as `query-blockstats` reports them. Never reset while the node lives. */
export type RequestKind = 'read' | 'write' | 'writeZeroes' | 'discard' | 'flush'

export interface KindStatistics {
  operations: number
  bytes: number
  failed: number
}

export class NodeStatistics {
  readonly read: KindStatistics = { operations: 0, bytes: 0, failed: 0 }
  readonly write: KindStatistics = { operations: 0, bytes: 0, failed: 0 }
  readonly writeZeroes: KindStatistics = { operations: 0, bytes: 0, failed: 0 }
  readonly discard: KindStatistics = { operations: 0, bytes: 0, failed: 0 }
  readonly flush: KindStatistics = { operations: 0, bytes: 0, failed: 0 }
  /** First byte behind the highest one ever written. */
  highestWritten = 0
}
