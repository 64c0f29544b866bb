/** The command line of `img convert`, checked before any image is opened. */
import type { NamedIo } from '../command.ts'
import type { CacheMode } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { checkOptionList, optionHelp, wantsHelp } from './create-options.ts'
import { CommandFailure } from './failure.ts'
import { sizeArgument, wholeNumber } from './size-text.ts'
import { parseSnapshotParam, type SnapshotParam } from './snapshot-param.ts'
import { objects, sourceCache } from './source-options.ts'

export interface ConvertArguments {
  readonly sources: readonly string[]
  readonly imageOpts: boolean
  readonly format?: string
  readonly sourceCache: CacheMode
  readonly forceShare: boolean
  /** Shown instead of the source's disk. */
  readonly snapshot?: SnapshotParam
  readonly target: string
  /** `-n`: it is there already. */
  readonly existing: boolean
  readonly targetImageOpts: boolean
  readonly targetFormat: string
  /** As `-O` has it. */
  readonly namedTargetFormat?: string
  /** A name that is yet to be checked: what is wrong with the sources is said before. */
  readonly targetCache: string
  readonly targetIsZero: boolean
  readonly optionList: string
  readonly backingFile?: string
  readonly backingFormat?: string
  readonly compressed: boolean
  /** Bytes; 0: write everything. */
  readonly sparseSize: number
  readonly workers: number
  readonly anyOrder: boolean
  /** Bytes a second; 0: no limit. */
  readonly rate: number
  readonly salvage: boolean
  readonly bitmaps: boolean
  readonly skipBrokenBitmaps: boolean
  readonly progress: boolean
  readonly quiet: boolean
}

const maxWorkers = 16
const defaultWorkers = 8

const sectorSize = 512
const defaultSparseSize = 4096
const maxSparseSize = 16777216

/** Undefined when only the options of the target's format were asked for; they are printed. */
export function parseConvertArguments(
  words: readonly string[],
  io: NamedIo,
): ConvertArguments | undefined {
  let sparseSize = defaultSparseSize
  let snapshot: SnapshotParam | undefined
  let workers = defaultWorkers
  let rate = 0
  const args = new Arguments(
    'convert',
    words,
    'f:O:B:CcF:o:l:S:pt:T:qnm:WUr:',
    [
      object,
      imageOpts,
      { name: 'target-image-opts' },
      { name: 'target-is-zero' },
      { name: 'bitmaps' },
      { name: 'skip-broken-bitmaps' },
      { name: 'salvage' },
      forceShare,
    ],
    {
      ...objects(io),
      o: checkOptionList,
      S: (text) => {
        sparseSize = parseSparseSize(text, io)
      },
      l: (text) => {
        snapshot = parseSnapshotParam(text, io)
      },
      m: (text) => {
        workers = parseWorkers(text)
      },
      r: (text) => {
        rate = sizeArgument('rate limit', text, io)
      },
    },
  )
  const optionList = args.all('o').join(',')
  const format = args.value('f')
  checkTogether(args)
  const target = args.rest.at(-1)
  const targetFormat = args.value('O') ?? 'raw'
  if (wantsHelp(optionList)) {
    io.stdout.write(optionHelp(targetFormat, target))
    return undefined
  }
  if (target === undefined || args.rest.length < 2) {
    throw new CommandFailure('Must specify image file name')
  }
  const cache = sourceCache(args.value('T'))
  return {
    sources: args.rest.slice(0, -1),
    imageOpts: args.has('image-opts'),
    format,
    sourceCache: cache,
    forceShare: args.has('U'),
    snapshot,
    target,
    existing: args.has('n'),
    targetImageOpts: args.has('target-image-opts'),
    targetFormat,
    namedTargetFormat: args.value('O'),
    targetCache: args.value('t') ?? 'unsafe',
    targetIsZero: args.has('target-is-zero'),
    optionList,
    backingFile: args.value('B'),
    backingFormat: args.value('F'),
    compressed: args.has('c'),
    sparseSize,
    workers,
    anyOrder: args.has('W'),
    rate,
    salvage: args.has('salvage'),
    bitmaps: args.has('bitmaps'),
    skipBrokenBitmaps: args.has('skip-broken-bitmaps'),
    progress: args.has('p') && !args.has('q'),
    quiet: args.has('q'),
  }
}

function parseSparseSize(text: string, io: NamedIo): number {
  const name = 'buffer size for sparse output'
  const size = sizeArgument(name, text, io)
  if (size % sectorSize !== 0 || size > maxSparseSize) {
    throw new CommandFailure(
      `Invalid ${name} specified. Valid sizes are multiples of ${sectorSize} up to ` +
        `${maxSparseSize}. Select 0 to disable sparse detection (fully allocates output).`,
    )
  }
  return size
}

function parseWorkers(text: string): number {
  const count = wholeNumber(text)
  if (count >= 1 && count <= maxWorkers) return count
  throw new CommandFailure(
    `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${maxWorkers}`,
  )
}

function checkTogether(args: Arguments): void {
  const existing = args.has('n')
  if (args.has('skip-broken-bitmaps') && !args.has('bitmaps')) {
    throw new CommandFailure('Use of --skip-broken-bitmaps requires --bitmaps')
  }
  if (args.has('C') && args.has('c')) {
    throw new CommandFailure('Cannot enable copy offloading when -c is used')
  }
  if (args.has('C') && args.has('S')) {
    throw new CommandFailure('Cannot enable copy offloading when -S is used')
  }
  if (args.has('C') && args.has('salvage')) {
    throw new CommandFailure('Cannot use copy offloading in salvaging mode')
  }
  if (args.has('target-image-opts') && !existing) {
    throw new CommandFailure('--target-image-opts requires use of -n flag')
  }
  if (args.has('target-is-zero') && !existing) {
    throw new CommandFailure('--target-is-zero requires use of -n flag')
  }
  if (existing && args.has('o')) {
    throw new CommandFailure('-o has no effect when skipping image creation')
  }
}
