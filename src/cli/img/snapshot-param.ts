/** `-l SNAPSHOT_PARAM`: which internal snapshot of its source `img convert` reads. */
import type { SnapshotFacts } from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'
import { CommandFailure } from './failure.ts'

/** Both have to match where both are given; `either` may be the one or the other. */
export type SnapshotParam =
  | { readonly either: string }
  | { readonly id?: string; readonly name?: string }

const members = ['snapshot.id', 'snapshot.name']

export function parseSnapshotParam(text: string, io: NamedIo): SnapshotParam {
  if (!text.startsWith('snapshot.')) return { either: text }
  const { options, shortForms } = parseOptionString(text)
  for (const { written, meaning } of shortForms) {
    io.stderr.write(
      `${io.program}: warning: short-form boolean option '${written}' deprecated\n` +
        `Please use ${meaning} instead\n`,
    )
  }
  const unknown = Object.keys(options).find((name) => !members.includes(name))
  if (unknown !== undefined) {
    io.stderr.write(`${io.program}: Invalid parameter '${unknown}'\n`)
    throw new CommandFailure(`Failed in parsing snapshot param '${text}'`)
  }
  return { id: options['snapshot.id'], name: options['snapshot.name'] }
}

/** Has a node that was just opened, read-only, show the snapshot. */
export async function showSnapshot({ layer, driver }: BlockNode, param: SnapshotParam) {
  const fail = (reason: string) => new CommandFailure(`Failed to load snapshot: ${reason}`)
  if (!layer.snapshots) {
    throw fail(
      `Block format '${driver}' used by device '' does not support temporarily loading internal ` +
        'snapshots',
    )
  }
  const found = find((await layer.image?.snapshots?.()) ?? [], param)
  if (!found) throw fail("Can't find snapshot")
  await layer.snapshots.open(found.id, plainIo)
}

function find(snapshots: readonly SnapshotFacts[], param: SnapshotParam) {
  if ('either' in param) {
    const { either } = param
    return (
      snapshots.find(({ id }) => id === either) ?? snapshots.find(({ name }) => name === either)
    )
  }
  const { id, name } = param
  return snapshots.find(
    (each) => (id === undefined || each.id === id) && (name === undefined || each.name === name),
  )
}
