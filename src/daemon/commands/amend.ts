/** Changing what an open image was made with: `x-blockdev-amend`, whose work is a job. */

import { BlockError, invalid } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { jobUser } from '../../job/ground.ts'
import type { JobControl } from '../../job/work.ts'
import { command } from '../command.ts'
import { blockdevDriver } from '../schema/blockdev-options.ts'
import {
  bool,
  enumeration,
  int,
  object,
  optional,
  required,
  str,
  union,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const keySlots = {
  state: required(
    enumeration('QCryptoBlockLUKSKeyslotState', ['active', 'inactive']),
    'What the key slots become.',
  ),
  'new-secret': optional(str, 'Id of the `secret` with the new password; for `active`.'),
  'old-secret': optional(str, 'Which slots to erase: those that this password opens.'),
  secret: optional(str, "Id of the `secret` that opens the image; the node's unless given."),
  keyslot: optional(int, 'The slot, 0 to 7; for `active` the first that is free unless given.'),
  'iter-time': optional(int, 'Milliseconds that one try of the password takes; 2000 unless given.'),
}

const encryption = union(
  'QCryptoBlockAmendOptions',
  { format: required(enumeration('QCryptoBlockFormat', ['qcow', 'luks']), 'Kind of the image.') },
  'format',
  () => ({ luks: object('QCryptoBlockAmendOptionsLUKS', keySlots) }),
)

const amendOptions = union(
  'BlockdevAmendOptions',
  { driver: required(blockdevDriver, "The node's; only `luks` and `qcow2` can be amended.") },
  'driver',
  () => ({
    luks: object('BlockdevAmendOptionsLUKS', keySlots),
    qcow2: object('BlockdevAmendOptionsQcow2', {
      encrypt: optional(encryption, 'Key slots to change.'),
    }),
  }),
)

export const amendCommands = [
  command({
    name: 'x-blockdev-amend',
    topic: 'Block nodes',
    doc:
      'Changes the key slots of an encrypted image: a job does it, which stays listed until ' +
      '`job-dismiss`, with `error` when it failed. Nobody uses the node meanwhile.',
    args: object('XBlockdevAmendArg', {
      'job-id': required(str, 'Id of the job.'),
      'node-name': required(str, 'The node.'),
      options: required(amendOptions, 'What to change.'),
      force: optional(bool, 'Whether the last key slot may be erased, or an active one changed.'),
    }),
    run({ 'job-id': id, 'node-name': name, options, force = false }, { daemon }) {
      const node = nodeOf(daemon, name)
      if (options.driver !== node.driver) {
        throw invalid("x-blockdev-amend doesn't support changing the block driver")
      }
      if (node.driver !== 'luks' && node.driver !== 'qcow2') {
        throw new BlockError('UNSUPPORTED', 'Driver does not support x-blockdev-amend', {
          errno: 'ENOTSUP',
        })
      }
      const job = daemon.jobs.start(
        { id, type: 'amend', manualDismiss: true },
        { run: (control) => amend(daemon, node, options, force, control) },
      )
      // Until the job is dismissed nobody takes the node away.
      const hold = daemon.graph.attach(node, { description: jobUser('amend', id), uses: [] })
      job.on('status', (status) => {
        if (status === 'null') hold[Symbol.asyncDispose]().catch(() => {})
      })
    },
  }),
]

function nodeOf({ graph }: StorageDaemon, name: string): BlockNode {
  const node = graph.nodes.get(name)
  if (node) return node
  throw invalid(`Cannot find device='' nor node-name='${name}'`)
}

async function amend(
  { graph }: StorageDaemon,
  node: BlockNode,
  { driver, ...members }: Value<typeof amendOptions>,
  force: boolean,
  control: JobControl,
): Promise<void> {
  control.setTotal(1)
  try {
    const options = driver === 'qcow2' ? encryptOptions({ ...members }) : { ...members }
    if (Object.keys(options).length === 0) return
    const edge = graph.attach(node, {
      description: 'amending the image',
      uses: ['consistentRead', 'write'],
    })
    try {
      const { signal } = control
      await graph.drained([node], () => node.layer.amend?.run({ options, force, signal }))
    } finally {
      await edge[Symbol.asyncDispose]()
    }
  } finally {
    control.advance(1)
  }
}

/** As the driver's `amend` names them. */
function encryptOptions(members: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { format, ...rest } = (members.encrypt ?? {}) as Record<string, unknown>
  if (format === 'qcow') throw invalid("Amend can't be used to change the qcow2 encryption format")
  return Object.fromEntries(Object.entries(rest).map(([name, value]) => [`encrypt.${name}`, value]))
}
