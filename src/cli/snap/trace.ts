/** What `--trace` prints on standard error: what happens, with the seconds since the start. */
import type { LoadOptions } from '../../snapshot/load/load.ts'
import type { SaveOptions } from '../../snapshot/save.ts'
import type { StreamItem } from '../../snapshot/stream/stream-item.ts'
import type { NamedIo } from '../command.ts'

interface Wanted {
  readonly trace?: boolean
}

export function tracedSave({ trace }: Wanted, io: NamedIo): Pick<SaveOptions, 'onItem'> {
  if (!trace) return {}
  const line = liner(io)
  return {
    onItem: (item, end) => {
      const text = describe(item)
      if (text !== undefined) line(`${text}, to byte ${end}`)
    },
  }
}

export function tracedLoad(
  { trace }: Wanted,
  io: NamedIo,
): Pick<LoadOptions, 'onPhase' | 'onAnswer'> {
  if (!trace) return {}
  const line = liner(io)
  return {
    onPhase: (phase) => line(phase),
    onAnswer: ({ block, offset, length }, ms) =>
      line(
        `${length} bytes at ${offset} of ${block} were asked for, and sent in ${ms.toFixed(2)} ms`,
      ),
  }
}

function liner(io: NamedIo): (text: string) => void {
  const start = performance.now()
  return (text) => {
    const seconds = ((performance.now() - start) / 1000).toFixed(3)
    io.stderr.write(`${io.program}: ${seconds} ${text}\n`)
  }
}

/** Undefined for what there is too much of. */
function describe(item: StreamItem): string | undefined {
  switch (item.kind) {
    case 'ram':
    case 'ram-part':
      return undefined
    case 'configuration':
      return `machine ${item.machine}`
    case 'command':
      return `command ${item.command}`
    case 'ram-list':
      return `RAM of ${item.blocks.length} blocks, pages of ${item.pageSize} bytes`
    case 'section':
      return `device ${item.name}, instance ${item.instance}, ${item.body.length} bytes`
    default:
      return item.kind
  }
}
