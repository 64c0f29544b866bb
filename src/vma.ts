/** `varve/vma`: writing, reading and restoring VMA archives. */

export type { VmaStreamStatus } from './archive/vma/device-stream.ts'
export { openSink } from './archive/vma/io/open-sink.ts'
export { openSource } from './archive/vma/io/open-source.ts'
export type { ArchiveSink } from './archive/vma/io/sink.ts'
export { VmaReader } from './archive/vma/reader.ts'
export { type RestoreOptions, restoreArchive } from './archive/vma/restore.ts'
export { VmaWriter, type VmaWriterOptions, type VmaWriterStatus } from './archive/vma/writer.ts'
