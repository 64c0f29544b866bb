/** `varve snap inspect|verify|diff`: what is in snapshots. */
import { BlockError } from '../../errors.ts'
import { compareSnapshots } from '../../snapshot/image/compare.ts'
import { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import { printable } from '../../snapshot/stream/configuration.ts'
import type { NamedIo } from '../command.ts'
import type { SnapArguments } from './arguments.ts'
import { openSnapshotImage } from './image.ts'
import { openInput } from './input.ts'

export async function inspect(settings: SnapArguments, io: NamedIo): Promise<number> {
  await using input = await openInput(settings.files[0], settings, io)
  const facts = factsOf(input.snapshot)
  io.stdout.write(settings.json ? `${JSON.stringify(facts, null, 2)}\n` : textOf(facts))
  return 0
}

/** Reads all of each snapshot; the status is 1 when any is not what was saved. */
export async function verify(settings: SnapArguments, io: NamedIo): Promise<number> {
  let status = 0
  for (const filename of settings.files) {
    const problem = await problemOf(filename, settings, io)
    if (problem !== undefined) status = 1
    if (settings.json) io.stdout.write(`${JSON.stringify({ file: filename, problem })}\n`)
    else if (problem === undefined) io.stdout.write(`${filename}: whole and unaltered\n`)
    else io.stderr.write(`${io.program}: ${problem}\n`)
  }
  return status
}

/** Status 0: the same; 1: different. */
export async function diff(settings: SnapArguments, io: NamedIo): Promise<number> {
  const [one, other] = settings.files
  await using left = await openInput(one, settings, io)
  await using right = await openInput(other, settings, io)
  const found = await compareSnapshots(left.snapshot, right.snapshot)
  if (settings.json) io.stdout.write(`${JSON.stringify(found, null, 2)}\n`)
  else {
    for (const { name, pages, ranges } of found.blocks) {
      io.stdout.write(`${printable(name)}: ${pages} pages differ, in ${ranges.length} runs\n`)
    }
    for (const name of found.devices) io.stdout.write(`${printable(name)}: state differs\n`)
  }
  return found.blocks.length + found.devices.length === 0 ? 0 : 1
}

async function problemOf(
  filename: string,
  { cache }: SnapArguments,
  io: NamedIo,
): Promise<string | undefined> {
  try {
    await using image = await openSnapshotImage(filename, io, { readOnly: true, cache })
    const snapshot = await SnapshotReader.open(image)
    if (!snapshot.record) return `${filename}: has no checksums: it cannot be verified`
    await readAll(snapshot)
    return undefined
  } catch (error) {
    if (error instanceof BlockError) return error.message
    throw error
  }
}

const pieceLength = 1024 * 1024

async function readAll(snapshot: SnapshotReader): Promise<void> {
  const buffer = new Uint8Array(pieceLength)
  for (const { base, usedLength } of snapshot.blocks) {
    for (let at = 0; at < usedLength; at += pieceLength) {
      await snapshot.read(base + at, buffer.subarray(0, Math.min(pieceLength, usedLength - at)))
    }
  }
}

type Facts = ReturnType<typeof factsOf>

function factsOf(snapshot: SnapshotReader) {
  const { parts, record } = snapshot
  return {
    file: snapshot.name,
    machine: parts.machine,
    id: record?.id,
    base: record?.baseId,
    created: record && new Date(record.created * 1000).toISOString(),
    pageSize: snapshot.pageSize,
    ramSize: snapshot.ramSize,
    normalPages: snapshot.normalPages,
    configuration: parts.configuration?.subsections.map(({ name, data }) => ({
      name,
      data: Buffer.from(data).toString('hex'),
    })),
    blocks: snapshot.blocks.map((block, index) => ({
      ...{ name: block.name, size: block.usedLength, offset: block.base },
      ...{ pageSize: block.pageSize, guestAddress: block.guestAddress },
      saved: snapshot.isSent(index),
    })),
    devices: [...parts.early, ...parts.devices].map((device) => ({
      ...{ name: device.name, instance: device.instance, version: device.version },
      ...{ size: device.body.length, early: device.early },
    })),
  }
}

function textOf(facts: Facts): string {
  const lines = [
    `snapshot: ${facts.file}`,
    `machine: ${printable(facts.machine)}`,
    ...(facts.id === undefined ? ['checksums: none'] : [`id: ${facts.id}`]),
    ...(facts.base === undefined ? [] : [`builds on: ${facts.base}`]),
    ...(facts.created === undefined ? [] : [`created: ${facts.created}`]),
    `RAM: ${facts.ramSize} bytes, ${facts.normalPages} pages of ${facts.pageSize} that are not zero`,
    'blocks:',
    ...facts.blocks.map(
      ({ name, size, offset, saved }) =>
        `  ${printable(name)}: ${size} bytes at ${offset}${saved ? '' : ', not saved (shared)'}`,
    ),
    'devices:',
    ...facts.devices.map(
      ({ name, instance, version, size }) =>
        `  ${printable(name)}${instance === 0 ? '' : `/${instance}`}: version ${version}, ${size} bytes`,
    ),
  ]
  return `${lines.join('\n')}\n`
}
