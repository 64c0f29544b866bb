/** The counters of a node, as `query-blockstats` reports them. */
import type { BlockNode } from '../graph/node.ts'
import {
  any,
  bool,
  int,
  list,
  object,
  optional,
  required,
  str,
  type Value,
} from './schema/types.ts'

const count = (doc: string) => required(int, doc)
const never = required(int, 'Always 0: not measured.')

const deviceStats = object('BlockDeviceStats', {
  rd_bytes: count('Bytes read.'),
  wr_bytes: count('Bytes written, zeroes included.'),
  unmap_bytes: count('Bytes discarded.'),
  rd_operations: count('Reads.'),
  wr_operations: count('Writes.'),
  flush_operations: count('Flushes.'),
  unmap_operations: count('Discards.'),
  rd_total_time_ns: never,
  wr_total_time_ns: never,
  flush_total_time_ns: never,
  unmap_total_time_ns: never,
  wr_highest_offset: count('First byte behind the highest one written.'),
  rd_merged: never,
  wr_merged: never,
  unmap_merged: never,
  failed_rd_operations: count('Reads that failed.'),
  failed_wr_operations: count('Writes that failed.'),
  failed_flush_operations: count('Flushes that failed.'),
  failed_unmap_operations: count('Discards that failed.'),
  invalid_rd_operations: count('Reads outside the disk.'),
  invalid_wr_operations: count('Writes outside the disk.'),
  invalid_flush_operations: never,
  invalid_unmap_operations: count('Discards outside the disk.'),
  account_invalid: required(bool, 'False.'),
  account_failed: required(bool, 'False: the times of failed requests are not measured.'),
  timed_stats: required(list(any), 'Empty.'),
})

export const statisticsType = object('BlockStats', {
  'node-name': optional(str, 'The node.'),
  stats: required(deviceStats, 'Its counters.'),
  'driver-specific': optional(any, 'Of files and devices: their discards.'),
  parent: optional(any, 'The same about the node below it.'),
  backing: optional(any, 'The same about its backing file.'),
})

export function nodeStatistics(node: BlockNode): Value<typeof statisticsType> {
  const { read, write, writeZeroes, discard, flush, highestWritten } = node.statistics
  const edges = [...node.children.values()]
  const below = edges.find(({ role }) => role === 'file' || role === 'filtered')?.node
  const backing = node.children.get('backing')?.node
  return {
    'node-name': node.name,
    stats: {
      rd_bytes: read.bytes,
      wr_bytes: write.bytes + writeZeroes.bytes,
      unmap_bytes: discard.bytes,
      rd_operations: read.operations,
      wr_operations: write.operations + writeZeroes.operations,
      flush_operations: flush.operations,
      unmap_operations: discard.operations,
      rd_total_time_ns: 0,
      wr_total_time_ns: 0,
      flush_total_time_ns: 0,
      unmap_total_time_ns: 0,
      wr_highest_offset: highestWritten,
      rd_merged: 0,
      wr_merged: 0,
      unmap_merged: 0,
      failed_rd_operations: read.failed,
      failed_wr_operations: write.failed + writeZeroes.failed,
      failed_flush_operations: flush.failed,
      failed_unmap_operations: discard.failed,
      invalid_rd_operations: read.invalid,
      invalid_wr_operations: write.invalid + writeZeroes.invalid,
      invalid_flush_operations: 0,
      invalid_unmap_operations: discard.invalid,
      account_invalid: false,
      account_failed: false,
      timed_stats: [],
    },
    'driver-specific': driverSpecific(node),
    parent: below && nodeStatistics(below),
    backing: backing && nodeStatistics(backing),
  }
}

function driverSpecific({ driver, statistics: { discard } }: BlockNode) {
  if (driver !== 'file' && driver !== 'host_device') return undefined
  return {
    driver,
    'discard-nb-ok': discard.operations,
    'discard-nb-failed': discard.failed,
    'discard-bytes-ok': discard.bytes,
  }
}
