/** `varve snap convert`: a snapshot in another form. */
import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { temporaryNameFor } from '../../archive/vma/io/new-name.ts'
import { neverAborted, plainIo, plainWriteIo } from '../../block/layer.ts'
import { BlockError, systemError } from '../../errors.ts'
import { writeElfCore } from '../../snapshot/convert/elf-core.ts'
import { mainBlocks } from '../../snapshot/convert/guest-memory.ts'
import { sourceOf, writeMappedRam } from '../../snapshot/convert/mapped-ram.ts'
import type { RandomTarget } from '../../snapshot/convert/random-file.ts'
import type { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import { DescriptorSink } from '../../snapshot/io/descriptor-io.ts'
import type { ByteSink } from '../../snapshot/io/sink.ts'
import { loadSnapshot } from '../../snapshot/load/load.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import type { SnapArguments } from './arguments.ts'
import { SnapFailure } from './failure.ts'
import { NewSnapshotFile } from './image.ts'
import { diskSizeOf, openInput } from './input.ts'
import { saveInto } from './save-into.ts'

export async function convert(settings: SnapArguments, io: NamedIo): Promise<number> {
  const [from, to] = settings.files
  const { format } = settings
  if (to === '-' && format !== 'stream') throw new SnapFailure('only a stream can go to -')
  const selected = format === 'internal' ? { ...settings, snapshot: undefined } : settings
  const folder = to === '-' ? undefined : dirname(to)
  await using input = await openInput(from, selected, io, folder)
  const { snapshot } = input
  switch (format) {
    case 'stream':
      if (to === '-') await precopy(snapshot, new DescriptorSink(1, 'standard output'), io)
      else await newFile(to, (target) => toStream(snapshot, target, io))
      break
    case 'mapped-ram':
      await newFile(to, (target) => writeMappedRam(snapshot, target))
      break
    case 'raw':
      await newFile(to, (target) => toRaw(snapshot, target))
      break
    case 'elf':
      await newFile(to, (target) => writeElfCore(snapshot, target, settings.below4G))
      break
    case 'internal':
      await toInternal(snapshot, to, settings, io)
      break
    case 'image':
      await toImage(snapshot, to, settings, io)
  }
  return 0
}

async function precopy(snapshot: SnapshotReader, sink: ByteSink, io: NamedIo): Promise<void> {
  await loadSnapshot(snapshot, sink, { signal: io.signal ?? neverAborted })
}

async function toStream(
  snapshot: SnapshotReader,
  target: RandomTarget,
  io: NamedIo,
): Promise<number> {
  let at = 0
  const sink: ByteSink = {
    name: target.name,
    async write(bytes) {
      await target.write(at, bytes)
      at += bytes.length
    },
    async end() {},
  }
  await precopy(snapshot, sink, io)
  return at
}

/** The machine's RAM, one block behind the other. */
async function toRaw(snapshot: SnapshotReader, target: RandomTarget): Promise<number> {
  let end = 0
  for (const { base, usedLength } of mainBlocks(snapshot)) {
    for await (const { offset, bytes } of snapshot.pages(base, usedLength)) {
      await target.write(end + offset - base, bytes)
    }
    end += usedLength
  }
  return end
}

/** As the state of a new internal snapshot of an existing qcow2 image, of its disk as it is. */
async function toInternal(
  snapshot: SnapshotReader,
  filename: string,
  { snapshot: name, cache }: SnapArguments,
  io: NamedIo,
): Promise<void> {
  if (name === undefined) throw new SnapFailure('--snapshot=NAME is required for this format')
  const graph = imageGraph(io)
  try {
    const request = { filename, format: 'qcow2', readOnly: false, backing: false, cache }
    const node = await openImage(graph, request, io)
    const { vmState, snapshots } = node.layer
    if (!vmState || !snapshots) throw new BlockError('UNSUPPORTED', `${filename}: no snapshots`)
    await using edge = graph.attach(node, {
      description: 'a snapshot',
      uses: ['consistentRead', 'write', 'resize'],
      shares: ['consistentRead'],
    })
    let at = 0
    const sink: ByteSink = {
      name: filename,
      async write(bytes) {
        await vmState.write(at, bytes, plainWriteIo)
        at += bytes.length
      },
      async end() {},
    }
    await precopy(snapshot, sink, io)
    await edge.flush()
    await snapshots.create({ name, vmStateSize: at }, plainIo)
  } finally {
    await graph[Symbol.asyncDispose]()
  }
}

/** Another image: compressed, on another base, or as the one that a stream is. */
async function toImage(
  snapshot: SnapshotReader,
  path: string,
  settings: SnapArguments,
  io: NamedIo,
): Promise<void> {
  const size = settings.imageSize ?? diskSizeOf(snapshot)
  const { cache, base, compress } = settings
  const file = await NewSnapshotFile.create(path, io, { size, cache, base, compress })
  try {
    await saveInto(file, sourceOf(streamParts(snapshot, io), snapshot.name), settings, io)
    await file.keep()
  } catch (error) {
    await file.discard()
    throw error
  }
}

/** The stream of a snapshot as it is asked for. */
async function* streamParts(snapshot: SnapshotReader, io: NamedIo): AsyncGenerator<Uint8Array> {
  const parts: Uint8Array[] = []
  let taken = () => {}
  let given = () => {}
  let news = new Promise<void>((resolve) => {
    given = resolve
  })
  let ended = false
  const sink: ByteSink = {
    name: snapshot.name,
    async write(bytes) {
      if (bytes.length === 0) return
      const consumed = new Promise<void>((resolve) => {
        taken = resolve
      })
      parts.push(bytes)
      given()
      await consumed
    },
    async end() {},
  }
  const work = precopy(snapshot, sink, io).finally(() => {
    ended = true
    given()
  })
  work.catch(() => {})
  for (;;) {
    await news
    news = new Promise((resolve) => {
      given = resolve
    })
    const part = parts.shift()
    if (part) {
      yield part
      taken()
    }
    if (ended && parts.length === 0) break
  }
  await work
}

/** A new file that gets its name when it is complete. */
async function newFile(
  path: string,
  work: (target: RandomTarget) => Promise<number>,
): Promise<void> {
  const temporary = temporaryNameFor(path)
  const handle = await open(temporary, 'wx').catch((error) => {
    throw systemError(error, `Could not create '${path}'`, { path })
  })
  try {
    const length = await work({
      name: path,
      async write(offset, bytes) {
        await handle.write(bytes, 0, bytes.length, offset)
      },
    })
    await handle.truncate(length)
    await handle.sync()
    await handle.close()
    await rename(temporary, path)
  } catch (error) {
    await handle.close().catch(() => {})
    await rm(temporary, { force: true })
    throw systemError(error, `Could not write '${path}'`, { path })
  }
}
