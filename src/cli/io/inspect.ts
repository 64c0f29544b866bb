/** `alloc`, `flush`, `info`, `length` and `map`. */
import { drivers } from '../../drivers.ts'
import { BlockError } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { filteredChild } from '../../graph/status.ts'
import { describeSpecific } from '../img/image-facts.ts'
import { amount } from './figures.ts'
import { alreadyPrinted, CommandError } from './outcome.ts'
import { sectorSize } from './request.ts'
import type { IoCommand } from './session.ts'
import { size } from './words.ts'

export const alloc: IoCommand = {
  name: 'alloc',
  alias: 'a',
  arguments: 'offset [count]',
  summary: 'checks if offset is allocated in the file',
  least: 1,
  most: 2,
  async run(words, session) {
    const { image } = session
    const start = size(words[1], session)
    const wanted = words.length > 2 ? size(words[2], session) : sectorSize
    const count = Math.max(0, Math.min(wanted, image.size - start))
    let allocated = 0
    for await (const run of image.allocation(start, count)) {
      if (run.allocated) allocated += run.length
    }
    session.print(`${allocated}/${count} bytes allocated at offset ${amount(start)}\n`)
  },
}

export const flush: IoCommand = {
  name: 'flush',
  alias: 'f',
  summary: 'flush all in-core file state to disk',
  least: 0,
  most: 0,
  async run(_, session) {
    try {
      await session.image.flush()
    } catch (error) {
      // A failure shows in the exit status only, as with qemu-io.
      throw error instanceof BlockError ? alreadyPrinted() : error
    }
  },
}

export const info: IoCommand = {
  name: 'info',
  alias: 'i',
  summary: 'prints information about the current file',
  least: 0,
  most: 0,
  run(_, session) {
    const { node } = session.image
    const facts = node.layer.image
    // Formats have that name once, protocols also as such.
    const { kind } = drivers.find(({ name }) => name === node.driver) ?? {}
    const name = `format name: ${node.driver}\n`
    session.print(kind === 'protocol' ? name + name : name)
    if (saysNothing(node)) throw alreadyPrinted()
    session.print(
      `cluster size: ${amount(facts?.clusterSize ?? 0)}\n` +
        `vm state offset: ${amount(facts?.vmStateOffset ?? 0)}\n` +
        describeSpecific(facts?.specific?.().data ?? {}),
    )
  },
}

export const length: IoCommand = {
  name: 'length',
  alias: 'l',
  summary: 'gets the length of the current file',
  least: 0,
  most: 0,
  async run(_, session) {
    const { medium } = session.image.node.layer
    if (medium && !(await medium.isInserted())) throw new CommandError('getlength: No medium found')
    session.print(`${amount(session.image.size)}\n`)
  },
}

export const map: IoCommand = {
  name: 'map',
  arguments: '',
  summary: 'prints the allocated areas of a file',
  least: 0,
  most: 0,
  async run(_, session) {
    const { image } = session
    try {
      for await (const { offset, length, allocated } of image.allocation(0, image.size)) {
        const status = allocated ? '    allocated' : 'not allocated'
        session.print(`${exactly(length)} bytes ${status} at offset ${exactly(offset)}\n`)
      }
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      throw new CommandError(
        `${session.io.program}: Failed to get allocation status: ${error.message}`,
        'stderr',
      )
    }
  },
}

/** `64 KiB (0x10000)` */
function exactly(bytes: number): string {
  return `${amount(bytes)} (0x${bytes.toString(16)})`
}

/** What has no file, and no clusters of its own either, is not asked for more. */
function saysNothing(node: BlockNode): boolean {
  const below = filteredChild(node)
  return below ? saysNothing(below) : ['nbd', 'null-aio', 'null-co'].includes(node.driver)
}
