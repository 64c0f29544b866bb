/** `varve/snap`: migration streams and RAM snapshots of a running QEMU. */

export {
  checkWaiting,
  type Resumed,
  type ResumeOptions,
  resumeSnapshot,
} from './snapshot/control/resume.ts'
export {
  checkReady,
  type DiskOverlay,
  type Taken,
  type TakeOptions,
  takeSnapshot,
} from './snapshot/control/take.ts'
export type { SnapshotImage } from './snapshot/image/snapshot-image.ts'
export { type SnapshotParts, SnapshotReader } from './snapshot/image/snapshot-reader.ts'
export {
  type SnapshotSummary,
  SnapshotWriter,
  type WriterOptions,
} from './snapshot/image/snapshot-writer.ts'
export type { ByteSink } from './snapshot/io/sink.ts'
export {
  type LoadOptions,
  type LoadSummary,
  loadSnapshot,
  recoverLoad,
} from './snapshot/load/load.ts'
export { ReturnPath } from './snapshot/load/return-path.ts'
export { type SaveOptions, saveSnapshot } from './snapshot/save.ts'
export { readStream, type StreamOptions, StreamReader } from './snapshot/stream/parser.ts'
export type { RamBlock } from './snapshot/stream/ram-list.ts'
export type * from './snapshot/stream/stream-item.ts'
export type { ByteSource } from './snapshot/stream/window.ts'
