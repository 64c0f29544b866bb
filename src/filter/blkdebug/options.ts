/** The options of a blkdebug node. */
import type { NodeOptions, NodeReference } from '../../block/driver.ts'
import { OptionReader, UnknownOption } from '../../block/options.ts'
import { allPermissions, type Permission } from '../../block/permission.ts'
import { isPowerOfTwo } from '../../bytes/range.ts'
import { type BlockError, invalid } from '../../errors.ts'
import { parseRule, type Rule, type RuleKind, type Section } from './rule-options.ts'

export interface BlkdebugOptions {
  readonly image: NodeReference
  /** A file of rules, which come before those given as options. */
  readonly config?: string
  readonly rules: readonly Rule[]
  readonly limits: LimitOverrides
  /** Taken on the child besides what the users of the node need. */
  readonly takePermissions: readonly Permission[]
  /** Not shared on the child, whatever the users of the node share. */
  readonly unsharePermissions: readonly Permission[]
}

/** Bytes; 0 where the child's own limit holds. */
export interface LimitOverrides {
  readonly align: number
  readonly maxTransfer: number
  readonly optWriteZero: number
  readonly maxWriteZero: number
  readonly optDiscard: number
  readonly maxDiscard: number
}

export function parseBlkdebugOptions(options: NodeOptions): BlkdebugOptions {
  const reader = new OptionReader(options)
  const config = reader.string('config')
  const rules = [...takeRules(reader, 'inject-error'), ...takeRules(reader, 'set-state')]
  const filename = reader.string('x-image')
  const image = reader.take('image') ?? (filename === undefined ? undefined : { filename })
  const size = (name: string) => reader.bytes(name) ?? 0
  const parsed = {
    config,
    rules,
    limits: {
      align: size('align'),
      maxTransfer: size('max-transfer'),
      optWriteZero: size('opt-write-zero'),
      maxWriteZero: size('max-write-zero'),
      optDiscard: size('opt-discard'),
      maxDiscard: size('max-discard'),
    },
    takePermissions: takePermissions(reader, 'take-child-perms'),
    unsharePermissions: takePermissions(reader, 'unshare-child-perms'),
  }
  if (image === undefined) throw invalid('A block device must be specified for "image"')
  reader.finish()
  return { ...parsed, image: image as NodeReference }
}

/** `blkdebug:CONFIG:IMAGE`; CONFIG may be empty. */
export function parseBlkdebugFilename(filename: string): NodeOptions | undefined {
  const prefix = 'blkdebug:'
  if (!filename.startsWith(prefix)) return undefined
  const colon = filename.indexOf(':', prefix.length)
  if (colon < 0) throw invalid('blkdebug requires both config file and image path')
  const config = filename.slice(prefix.length, colon)
  return { ...(config === '' ? {} : { config }), 'x-image': filename.slice(colon + 1) }
}

/** Refuses sizes that contradict each other or the alignment of what is below. */
export function checkLimits(limits: LimitOverrides, alignmentBelow: number): void {
  const { align, maxTransfer, optWriteZero, maxWriteZero, optDiscard, maxDiscard } = limits
  if (align !== 0 && (align > maxLimit || !isPowerOfTwo(align))) throw unmet('align', align)
  const unit = Math.max(align, alignmentBelow)
  const fits = (name: string, value: number, step: number) => {
    if (value !== 0 && (value > maxLimit || value % step !== 0)) throw unmet(name, value)
  }
  fits('max-transfer', maxTransfer, unit)
  fits('opt-write-zero', optWriteZero, unit)
  fits('max-write-zero', maxWriteZero, Math.max(optWriteZero, unit))
  fits('opt-discard', optDiscard, unit)
  fits('max-discard', maxDiscard, Math.max(optDiscard, unit))
}

const maxLimit = 2 ** 31 - 2

function unmet(name: string, value: number): BlockError {
  return invalid(`Cannot meet constraints with ${name} ${value}`)
}

function takeRules(reader: OptionReader, kind: RuleKind): Rule[] {
  return rulesOf(reader, kind).map((section) => parseRule(kind, section as Section))
}

function rulesOf(reader: OptionReader, kind: RuleKind): readonly unknown[] {
  try {
    return reader.list(kind) ?? []
  } catch (error) {
    if (!(error instanceof UnknownOption) || error.option === kind) throw error
    throw invalid(`Unused option '${error.option.slice(kind.length + 1)}' for [${kind}]`)
  }
}

const permissionNames: Readonly<Record<string, Permission>> = {
  'consistent-read': 'consistentRead',
  write: 'write',
  'write-unchanged': 'writeUnchanged',
  resize: 'resize',
}

function takePermissions(reader: OptionReader, option: string): readonly Permission[] {
  const names = reader.list(option) ?? []
  return allPermissions.filter((permission) =>
    names.some((name) => {
      if (typeof name === 'string' && Object.hasOwn(permissionNames, name)) {
        return permissionNames[name] === permission
      }
      // Whatever the element: QEMU's message does not say which either.
      throw invalid(`Parameter 'null' does not accept value '${name}'`)
    }),
  )
}
