/** The library: images, the graph they are opened in, and the jobs that run on it. */

export { DirtyBitmap, type DirtyTracker } from './bitmap/dirty-bitmap.ts'
export { ClusterLayer } from './block/cluster-layer.ts'
export type * from './block/cluster-map.ts'
export type * from './block/driver.ts'
export type { ErrorPolicy } from './block/error-policy.ts'
export { Filter } from './block/filter.ts'
export type { DiskPart } from './block/join-requests.ts'
export * from './block/layer.ts'
export type { ByteRange } from './bytes/range.ts'
export { createImage, type NewImage } from './create-image.ts'
export { Disk, type OpenDiskOptions, openDisk } from './disk.ts'
export { drivers } from './drivers.ts'
export { BlockError, type BlockErrorCode, type BlockErrorDetails } from './errors.ts'
export {
  addBitmap,
  type BitmapChange,
  clearBitmap,
  enableBitmap,
  findBitmap,
  mergeBitmaps,
  removeBitmap,
} from './graph/bitmap-actions.ts'
export { Drive } from './graph/drive.ts'
export type { DriveError, DriveOptions } from './graph/drive-options.ts'
export type { Edge } from './graph/edge.ts'
export { type Attachment, type FilterPlace, Graph, type GraphOptions } from './graph/graph.ts'
export type { BlockNode } from './graph/node.ts'
export {
  allowAll,
  type ImpliedFile,
  type OpenPolicy,
  refusal,
  refuseAll,
  sameFolder,
} from './graph/open-policy.ts'
export type { DriveStatistics, NodeStatistics, RequestTimes } from './graph/statistics.ts'
export { type ChainExtent, chainExtentAt } from './graph/status.ts'
export {
  type ArchiveBackup,
  type ArchiveBackupOptions,
  type ArchiveDisk,
  startArchiveBackup,
} from './job/archive-backup.ts'
export { type BackupOptions, startBackup } from './job/backup.ts'
export { type CommitOptions, startCommit } from './job/commit.ts'
export type { FleecingOptions } from './job/fleecing.ts'
export type { Job, JobOptions } from './job/job.ts'
export { JobTable } from './job/job-table.ts'
export { type MirrorOptions, startMirror } from './job/mirror.ts'
export type { SyncMode } from './job/preserved-disk.ts'
export type { JobProgress } from './job/progress.ts'
export type { JobStatus } from './job/status.ts'
export { type StreamOptions, startStream } from './job/stream.ts'
export type { BitmapMode } from './job/sync-bitmap.ts'
export type { JobControl, JobWork } from './job/work.ts'
