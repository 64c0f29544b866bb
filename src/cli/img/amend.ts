/** `img amend`: changes options of an image that exists. */
import type { CreateOptionInfo } from '../../block/driver.ts'
import { neverAborted } from '../../block/layer.ts'
import { drivers } from '../../drivers.ts'
import { BlockError } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { attachImage, imageGraph, openImage } from '../open-image.ts'
import { Arguments, imageOpts, object } from './arguments.ts'
import {
  type CreateValue,
  checkOptionList,
  optionLines,
  parseCreateOptions,
  wantsHelp,
} from './create-options.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'
import { checkImageOpts, objects, targetCache } from './source-options.ts'

export const amend: ImgCommand = async (words, io) => {
  const args = new Arguments('amend', words, 'o:qpt:f:', [object, imageOpts, { name: 'force' }], {
    ...objects(io),
    o: checkOptionList,
  })
  const lists = args.all('o')
  const optionList = lists.join(',')
  if (lists.length === 0) throw usageFailure('Must specify options (-o)')
  const format = args.value('f')
  using progress = new Progress(io, args.has('p') && !args.has('q'))
  if (wantsHelp(optionList) && format !== undefined) {
    io.stdout.write(amendHelp(format))
    return 0
  }
  if (args.rest.length !== 1) throw new CommandFailure('Expecting one image file name')
  const cache = targetCache(args.value('t') ?? 'writeback')
  checkImageOpts(args.has('image-opts'), format)
  await using graph = imageGraph(io)
  const [filename] = args.rest
  const node = await openImage(
    graph,
    { filename, imageOpts: args.has('image-opts'), format, readOnly: false, cache },
    io,
  )
  const offered = offeredBy(node.driver)
  if (wantsHelp(optionList)) {
    io.stdout.write(amendHelp(node.driver))
    return 0
  }
  const options = parseAmendOptions(node.driver, offered, optionList, io)
  progress.start()
  await using edge = attachImage(graph, node, filename, {
    description: 'img amend',
    uses: ['consistentRead', 'write', 'resize'],
  })
  try {
    await node.layer.amend?.run({
      options,
      force: args.has('force'),
      resize: (size) => edge.truncate(size),
      signal: neverAborted,
      onProgress: (current, total) => progress.reach(total === 0 ? 1 : current / total),
    })
    await edge.flush()
  } catch (error) {
    throw withRemedy(error, io)
  } finally {
    // Also after a failure, as qemu-img does.
    progress.finish()
  }
  return 0
}

function amendHelp(format: string): string {
  return `Amend options for '${format}':\n${optionLines(offeredBy(format))}`
}

function offeredBy(format: string): readonly CreateOptionInfo[] {
  const driver = drivers.find(({ name }) => name === format)
  if (!driver) throw new CommandFailure(`Unknown file format '${format}'`)
  if (driver.amendOptions) return driver.amendOptions
  throw new CommandFailure(`Format driver '${format}' does not support option amendment`)
}

function parseAmendOptions(
  format: string,
  offered: readonly CreateOptionInfo[],
  optionList: string,
  io: NamedIo,
): Record<string, CreateValue> {
  try {
    return parseCreateOptions(offered, optionList, io)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const { creator } = drivers.find(({ name }) => name === format) ?? {}
    const hint = canBeParsed([...offered, ...(creator?.options ?? [])], optionList, io)
      ? '\nThis option is only supported for image creation'
      : ''
    throw new CommandFailure(`${error.message}${hint}`)
  }
}

function canBeParsed(offered: readonly CreateOptionInfo[], optionList: string, io: NamedIo) {
  try {
    parseCreateOptions(offered, optionList, io)
    return true
  } catch {
    return false
  }
}

/** The backing file is another command's business. */
function withRemedy(error: unknown, io: NamedIo): unknown {
  if (!(error instanceof BlockError) || error.message !== 'Cannot amend the backing file')
    return error
  return new CommandFailure(`${error.message}\nYou can use '${io.program} rebase' instead.`)
}
