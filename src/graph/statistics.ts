/**
 * Counters of one node, as `query-blockstats` reports them, and of a drive. Never reset while it lives.
 */
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

/** What a drive tells apart; zeroes are written. */
export type DriveRequest = 'read' | 'write' | 'discard' | 'flush'

export interface RequestTimes {
  operations: number
  bytes: number
  failed: number
  /** Refused before they began: not whole blocks. */
  invalid: number
  /** Of several that came together, those that were done as a part of another. */
  merged: number
  /** Nanoseconds, of all requests together, waiting for `resume` included. */
  totalNs: number
  longestNs: number
}

/** Requests of a drive: how many, how much, and how long they took. */
export class DriveStatistics {
  readonly read: RequestTimes = newTimes()
  readonly write: RequestTimes = newTimes()
  readonly discard: RequestTimes = newTimes()
  readonly flush: RequestTimes = newTimes()

  /** `began`: of `performance.now()`. */
  count(kind: DriveRequest, bytes: number, began: number, succeeded: boolean): void {
    const times = this[kind]
    const ns = Math.round((performance.now() - began) * 1e6)
    times.totalNs += ns
    times.longestNs = Math.max(times.longestNs, ns)
    if (!succeeded) {
      times.failed++
      return
    }
    times.operations++
    times.bytes += bytes
  }
}

function newTimes(): RequestTimes {
  return { operations: 0, bytes: 0, failed: 0, invalid: 0, merged: 0, totalNs: 0, longestNs: 0 }
}
