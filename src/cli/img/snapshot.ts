/** `img snapshot`: lists, creates, applies and deletes the internal snapshots of an image. */
import type { InternalSnapshots, SnapshotFacts } from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import { snapshotInfo } from '../../block/snapshot-info.ts'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { snapshotNode } from '../../graph/snapshot-node.ts'
import type { NamedIo } from '../command.ts'
import { attachImage, imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { describeSnapshots } from './snapshot-facts.ts'
import { objects } from './source-options.ts'

const actionNames = ['l', 'a', 'c', 'd']

export const snapshot: ImgCommand = async (words, io) => {
  let action: string | undefined
  const actOnce = (name: string) => {
    if (action !== undefined) throw usageFailure("Cannot mix '-l', '-a', '-c', '-d'")
    action = name
  }
  const args = new Arguments('snapshot', words, 'la:c:d:qU', [object, imageOpts, forceShare], {
    ...objects(io),
    ...Object.fromEntries(actionNames.map((name) => [name, () => actOnce(name)])),
  })
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  // Without an action the image is opened, for writing, and that is all.
  const readOnly = action === 'l'
  const request = {
    filename: args.rest[0],
    imageOpts: args.has('image-opts'),
    forceShare: args.has('U'),
    readOnly,
    unmap: true,
  }
  await using graph = imageGraph(io)
  const node = await openImage(graph, request, io)
  const image = snapshotNode(node)
  const changes = !readOnly && image.layer.snapshots !== undefined
  await using _edge = attachImage(graph, node, request.filename, {
    description: 'img snapshot',
    uses: changes ? ['consistentRead', 'write', 'resize'] : ['consistentRead'],
  })
  // It goes back to the file and opens the image anew, which tells a second time of a format that was guessed.
  if (action === 'a' && !image.layer.snapshots) await openImage(graph, request, io)
  if (action === 'l') await list(image, io)
  else if (action) await actionsByOption[action](image, args.value(action) ?? '')
  return 0
}

async function list({ layer }: BlockNode, io: NamedIo): Promise<void> {
  const snapshots = (await layer.image?.snapshots?.()) ?? []
  if (snapshots.length === 0) return
  io.stdout.write(`${describeSnapshots(snapshots.map(snapshotInfo)).join('\n')}\n`)
}

const actionsByOption: Readonly<Record<string, (node: BlockNode, name: string) => Promise<void>>> =
  {
    async c({ layer }, name) {
      const fail = (errno: string) => {
        const number = errnoNumbers[errno] ?? errnoNumbers.EIO
        return `Could not create snapshot '${name}': -${number} (${strerror(errno)})`
      }
      if (!layer.snapshots) throw new CommandFailure(fail('ENOTSUP'))
      const now = { name, icount: 0 }
      await orFail(layer.snapshots.create(now, plainIo), fail)
    },
    async a({ layer }, name) {
      const fail = (reason: string) => `Could not apply snapshot '${name}': ${reason}`
      if (!layer.snapshots) {
        throw new CommandFailure(fail('Block driver does not support snapshots'))
      }
      await orFail(layer.snapshots.apply(name, plainIo), (errno, error) =>
        fail(error.code === 'BUSY' ? error.message : `Failed to load snapshot: ${strerror(errno)}`),
      )
    },
    /** By name only, unlike the others. */
    async d({ layer }, name) {
      const fail = (reason: string) => `Could not delete snapshot '${name}': ${reason}`
      const found = (await layer.image?.snapshots?.())?.find((each) => each.name === name)
      if (!layer.snapshots || !found) throw new CommandFailure(fail('snapshot not found'))
      await deleteFound(layer.snapshots, found, fail)
    },
  }

async function deleteFound(
  snapshots: InternalSnapshots,
  { id }: SnapshotFacts,
  fail: (reason: string) => string,
): Promise<void> {
  await orFail(snapshots.delete(id, plainIo), (errno) => fail(strerror(errno)))
}

/** Failures of the system have qemu-img's words; ours say more than it would. */
async function orFail(
  work: Promise<unknown>,
  message: (errno: string, error: BlockError) => string,
): Promise<void> {
  try {
    await work
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const errno = errnoOf(error)
    throw new CommandFailure(errno === undefined ? error.message : message(errno, error))
  }
}

const errnoNumbers: Readonly<Record<string, number>> = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENOMEM: 12,
  EACCES: 13,
  EEXIST: 17,
  EINVAL: 22,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ENOTSUP: 95,
}
