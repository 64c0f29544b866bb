/**
 * The file names that people are shown, as QEMU has them: a node's own name where a plain one says
 * all that makes it this disk, otherwise `json:{…}` with the options that would open it again.
 */
import type { NodeOptions } from '../block/driver.ts'
import { bucketOf } from './dictionary-order.ts'
import { resolveRecorded } from './filename.ts'
import type { BlockNode } from './node.ts'

export function shownFilename(node: BlockNode): string {
  const plain = plainFilename(node)
  const child = node.naming?.plain === 'child' && shownChild(node)
  if (plain === undefined && child) return shownFilename(child)
  return plain ?? `json:${jsonText(fullOptions(node))}`
}

/** Undefined where it would not say enough. */
function plainFilename(node: BlockNode): string | undefined {
  const { naming, options } = node
  const child = shownChild(node)
  // What passes data on and was put there by code shows its child's name.
  if (!naming) return child ? plainFilename(child) : node.layer.image?.filename
  if (typeof naming.plain === 'function') {
    const childName = (name: string) => {
      const found = node.children.get(name)?.node
      return found && plainFilename(found)
    }
    return naming.plain(strongOptions(node), childName)
  }
  if (naming.plain === 'none') return undefined
  if (naming.plain === 'child') return child && plainFilename(child)
  if (naming.strong.some((name) => options[name] !== undefined)) return undefined
  if (overridesBacking(node)) return undefined
  if (!child) return node.layer.image?.filename
  // Opened by that name, only storage would be below.
  return isStorage(child) ? plainFilename(child) : undefined
}

/** Not what jobs put in between, which has children. */
function isStorage({ naming, children }: BlockNode): boolean {
  return naming === undefined ? children.size === 0 : typeof naming.plain === 'function'
}

/** The child whose place in the file system is the node's, too. */
function shownChild(node: BlockNode): BlockNode | undefined {
  const edges = [...node.children.values()]
  return edges.find(({ name, role }) => name === 'file' || role === 'filtered')?.node
}

function fullOptions(node: BlockNode): NodeOptions {
  const { naming } = node
  const child = shownChild(node)
  if (!naming && child) return fullOptions(child)
  if (!naming && node.children.size === 0) return storageOptions(node)
  const options: Record<string, unknown> = { driver: node.driver, ...strongOptions(node) }
  const list: NodeOptions[] = []
  for (const [name, { node: below }] of node.children) {
    if (name === 'backing') continue
    if (/^children\.\d+$/.test(name)) list.push(fullOptions(below))
    else options[name] = fullOptions(below)
  }
  if (list.length > 0) options.children = list
  if (overridesBacking(node)) {
    const backing = node.children.get('backing')?.node
    options.backing = backing ? fullOptions(backing) : null
  }
  return options
}

function storageOptions({ driver, options, layer }: BlockNode): NodeOptions {
  const filename = options.filename ?? layer.image?.filename
  if (options.server === undefined) return { driver, filename }
  const strong: Record<string, unknown> = { driver }
  for (const [name, value] of Object.entries(options)) flatten(name, value, strong)
  return strong
}

/** Those that make a difference to what is read and written. */
function strongOptions({ naming, options }: BlockNode): NodeOptions {
  const strong: Record<string, unknown> = {}
  for (const name of naming?.strong ?? []) flatten(name, options[name], strong)
  return strong
}

/** Lists of objects as dotted keys, as QEMU keeps them. */
function flatten(name: string, value: unknown, into: Record<string, unknown>): void {
  if (value === undefined) return
  if (typeof value !== 'object' || value === null) {
    into[name] = value
    return
  }
  for (const [key, part] of Object.entries(value)) flatten(`${name}.${key}`, part, into)
}

/** Whether the backing file is another one than the image names. */
function overridesBacking(node: BlockNode): boolean {
  const { backingLink } = node.layer
  // Opened for its own facts only, without what lies below.
  if (!backingLink || node.flags.noIo) return false
  const recorded = backingLink.recorded?.filename
  const backing = node.children.get('backing')?.node
  if (!backing) return recorded !== undefined
  if (recorded === undefined) return true
  const shown = shownFilename(backing)
  if (shown === recorded) return false
  // Opened by what the image names.
  const implied = node.options.backing === undefined
  if (implied && recorded.startsWith('json:')) return false
  return !(
    implied && shown === resolveRecorded(recorded, node.children.get('file')?.image?.filename)
  )
}

/** JSON with members in the order of QEMU's dictionaries: by the hash of their names. */
function jsonText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(jsonText).join(', ')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([one], [other]) => bucketOf(one) - bucketOf(other))
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}: ${jsonText(member)}`).join(', ')}}`
}
