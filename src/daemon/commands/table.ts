/** All commands, by name: the one table that dispatch, introspection and the manual come from. */
import type { Command } from '../command.ts'
import { amendCommands } from './amend.ts'
import { archiveBackupCommands } from './archive-backup.ts'
import { backupCommands } from './backup.ts'
import { bitmapCommands } from './bitmaps.ts'
import { blockCommands } from './block.ts'
import { blockGraphCommands } from './block-graph.ts'
import { chardevCommands } from './chardevs.ts'
import { commitCommands } from './commit.ts'
import { createCommands } from './create.ts'
import { exportCommands } from './exports.ts'
import { externalSnapshotCommands } from './external-snapshots.ts'
import { jobCommands } from './jobs.ts'
import { mirrorCommands } from './mirror.ts'
import { monitorCommands } from './monitor.ts'
import { nbdCommands } from './nbd.ts'
import { nodeChangeCommands } from './node-changes.ts'
import { objectCommands } from './objects.ts'
import { qomCommands } from './qom.ts'
import { internalSnapshotCommands } from './snapshots.ts'
import { streamCommands } from './stream.ts'
import { transactionCommands } from './transaction.ts'

const all: readonly Command[] = [
  ...monitorCommands,
  ...blockCommands,
  ...blockGraphCommands,
  ...bitmapCommands,
  ...nodeChangeCommands,
  ...createCommands,
  ...amendCommands,
  ...externalSnapshotCommands,
  ...internalSnapshotCommands,
  ...transactionCommands,
  ...jobCommands,
  ...streamCommands,
  ...commitCommands,
  ...mirrorCommands,
  ...backupCommands,
  ...archiveBackupCommands,
  ...nbdCommands,
  ...exportCommands,
  ...objectCommands,
  ...qomCommands,
  ...chardevCommands,
]

export const commands: ReadonlyMap<string, Command> = new Map(all.map((each) => [each.name, each]))
