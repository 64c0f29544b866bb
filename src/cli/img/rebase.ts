/** `img rebase -u`: records another backing file, or none. The images are not compared. */
import { neverAborted } from '../../block/layer.ts'
import { drivers } from '../../drivers.ts'
import { BlockError, strerror } from '../../errors.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { checkImageOpts, checkObjects, sourceCache, targetCache } from './source-options.ts'

export const rebase: ImgCommand = async (words, io) => {
  const args = new Arguments('rebase', words, 'f:F:b:upt:T:qU', [object, imageOpts, forceShare])
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  if (!args.has('u') && !args.has('b')) {
    throw usageFailure('Must specify backing file (-b) or use unsafe mode (-u)')
  }
  checkObjects(args, io)
  const cache = targetCache(args.value('t') ?? 'writeback')
  sourceCache(args.value('T'))
  if (!args.has('u')) {
    throw new CommandFailure('rebase is supported with -u only, which does not copy any data')
  }
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const node = await openImage(
    graph,
    {
      filename: args.rest[0],
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: false,
      backing: false,
      cache,
    },
    io,
  )
  const [filename, format] = [args.value('b'), args.value('F')]
  if (format !== undefined && !drivers.some(({ name }) => name === format)) {
    throw new CommandFailure(`Invalid format name: '${format}'`)
  }
  const fail = (reason: string) =>
    new CommandFailure(`Could not change the backing file to '${filename ?? ''}': ${reason}`)
  const { backingLink } = node.layer
  if (!backingLink) throw fail(strerror('ENOTSUP'))
  if (filename && format === undefined) throw fail('backing format must be specified')
  await using _edge = graph.attach(node, {
    description: 'img rebase',
    uses: ['consistentRead', 'write'],
  })
  try {
    await backingLink.change(filename ? { filename, format } : undefined, { signal: neverAborted })
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    throw fail(error.errno ? strerror(error.errno) : error.message)
  }
  return 0
}
