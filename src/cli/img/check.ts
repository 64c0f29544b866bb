/** `img check`: whether an image's metadata is consistent, and its repair. */
import type { CheckResult } from '../../block/abilities.ts'
import { neverAborted } from '../../block/layer.ts'
import { BlockError, inContext, strerror } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { attachImage, imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object, output } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { prettyJson } from './json.ts'
import { twoDecimals } from './percent.ts'
import { checkImageOpts, objects, sourceCache } from './source-options.ts'

/** Exit statuses. */
const failed = 1
const corrupt = 2
const leaking = 3
const notOffered = 63

type Repair = 'none' | 'leaks' | 'all'

export const check: ImgCommand = async (words, io) => {
  let repair: Repair = 'none'
  const args = new Arguments(
    'check',
    words,
    'f:r:T:qU',
    [
      { name: 'format', argument: 'required', as: 'f' },
      { name: 'repair', argument: 'required', as: 'r' },
      output,
      object,
      imageOpts,
      forceShare,
    ],
    {
      ...objects(io),
      r: (text) => {
        repair = parseRepair(text)
      },
    },
  )
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  const { json } = args
  checkImageOpts(args.has('image-opts'), args.value('f'))
  const cache = sourceCache(args.value('T'))
  await using graph = imageGraph(io)
  const [filename] = args.rest
  const node = await openImage(
    graph,
    {
      filename,
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: repair === 'none',
      forceShare: args.has('U'),
      check: true,
      cache,
    },
    io,
  )
  // What has nothing to check is told of before who else uses it.
  if (!node.layer.check) throw notChecked()
  await using _edge = attachImage(graph, node, filename, {
    description: 'img check',
    uses: repair === 'none' ? ['consistentRead'] : ['consistentRead', 'write', 'resize'],
  })
  const shown = args.has('q') ? 'nothing' : json ? 'json' : 'text'
  return await checkNode(node, filename, repair, shown, io)
}

function notChecked(): CommandFailure {
  return new CommandFailure('This image format does not support checks', notOffered)
}

function parseRepair(text: string): Repair {
  if (text === 'leaks' || text === 'all') return text
  throw usageFailure(`Unknown option value for -r (expecting 'leaks' or 'all'): ${text}`)
}

async function checkNode(
  node: BlockNode,
  filename: string,
  repair: Repair,
  shown: 'nothing' | 'json' | 'text',
  io: NamedIo,
): Promise<number> {
  const first = await runCheck(node, filename, repair, io)
  let last = first
  const repaired = first.corruptionsFixed > 0 || first.leaksFixed > 0
  if (repaired) {
    if (shown === 'text') io.stdout.write(describeRepair(first))
    last = { ...(await runCheck(node, filename, 'none', io)), ...fixed(first) }
  }
  if (shown === 'text') io.stdout.write(describe(last))
  if (shown === 'json') io.stdout.write(prettyJson(asJson(last, filename, node.driver)))
  if (last.checkErrors > 0) return failed
  if (last.corruptions > 0) return corrupt
  return last.leaks > 0 ? leaking : 0
}

function fixed({ corruptionsFixed, leaksFixed }: CheckResult) {
  return { corruptionsFixed, leaksFixed }
}

async function runCheck(
  node: BlockNode,
  filename: string,
  repair: Repair,
  io: NamedIo,
): Promise<CheckResult> {
  const { check } = node.layer
  if (!check) throw notChecked()
  try {
    const result = await check.run({ repair, signal: neverAborted })
    for (const message of result.messages) io.stderr.write(`${message}\n`)
    // The refcounts would have to be written anew, which `leaks` does not do.
    if (repair === 'leaks' && result.checkErrors > 0) {
      throw new CommandFailure('Check failed: Input/output error', failed)
    }
    if (result.checkErrors > 0) io.stderr.write(`${io.program}: Check failed\n`)
    return result
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const said = error.message.startsWith('ERROR ')
    if (said) io.stderr.write(`${io.program}: ${error.message}\n`)
    // What only `-r all` opens after all.
    if (!said && error.code === 'CORRUPT_IMAGE' && error.errno === 'EINVAL') {
      throw inContext(`Could not open '${filename}'`, error)
    }
    if (!said && error.errno === 'EFBIG') {
      io.stderr.write(`${io.program}: ERROR failed to read the snapshot table: ${error.message}\n`)
      io.stderr.write('You can force-remove this extra metadata with qemu-img check -r all\n')
    }
    const reason = error.errno ? strerror(error.errno) : error.message
    throw new CommandFailure(`Check failed: ${reason}`, failed)
  }
}

function describeRepair({ leaksFixed, corruptionsFixed }: CheckResult): string {
  return (
    'The following inconsistencies were found and repaired:\n\n' +
    `    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n\n` +
    'Double checking the fixed image now...\n'
  )
}

function describe(result: CheckResult): string {
  const { corruptions, leaks, checkErrors, imageEndOffset } = result
  let text = ''
  if (corruptions === 0 && leaks === 0 && checkErrors === 0) {
    text += 'No errors were found on the image.\n'
  }
  if (corruptions > 0) {
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n'
  }
  if (leaks > 0) {
    text +=
      `\n${leaks} leaked clusters were found on the image.\n` +
      'This means waste of disk space, but no harm to data.\n'
  }
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`
  text += describeClusters(result)
  return imageEndOffset > 0 ? `${text}Image end offset: ${imageEndOffset}\n` : text
}

function describeClusters(result: CheckResult): string {
  const { totalClusters, allocatedClusters, fragmentedClusters, compressedClusters } = result
  if (totalClusters === 0 || allocatedClusters === 0) return ''
  const percent = (part: number, whole: number) => twoDecimals((part * 100) / whole)
  return (
    `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)}% ` +
    `allocated, ${percent(fragmentedClusters, allocatedClusters)}% fragmented, ` +
    `${percent(compressedClusters, allocatedClusters)}% compressed clusters\n`
  )
}

/** `ImageCheck` of QMP in the order of qemu-img; what is 0 is left out, except for check errors. */
function asJson(result: CheckResult, filename: string, format: string) {
  const some = (count: number) => (count > 0 ? count : undefined)
  return {
    'image-end-offset': some(result.imageEndOffset),
    'compressed-clusters': some(result.compressedClusters),
    'total-clusters': some(result.totalClusters),
    'corruptions-fixed': some(result.corruptionsFixed),
    corruptions: some(result.corruptions),
    'check-errors': result.checkErrors,
    'leaks-fixed': some(result.leaksFixed),
    leaks: some(result.leaks),
    'allocated-clusters': some(result.allocatedClusters),
    filename,
    format,
    'fragmented-clusters': some(result.fragmentedClusters),
  }
}
