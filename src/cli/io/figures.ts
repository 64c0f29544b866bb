/** Sizes, times and rates in the forms that qemu-io prints. */

const units: readonly (readonly [string, number])[] = [
  ['EiB', 2 ** 60],
  ['PiB', 2 ** 50],
  ['TiB', 2 ** 40],
  ['GiB', 2 ** 30],
  ['MiB', 2 ** 20],
  ['KiB', 2 ** 10],
]

/** `1.500 KiB`, `4 KiB`, `512 bytes`: three decimals unless they are all zero. */
export function amount(value: number): string {
  const found = units.find(([, size]) => value >= size)
  if (!found) return `${Number.isInteger(value) ? value : value.toFixed(6)} bytes`
  const [unit, size] = found
  return `${thousandths(value / size).replace(/\.000$/, '')} ${unit}`
}

/** Three decimals, a tie going to the even one as in C; `toFixed` would go up. */
function thousandths(value: number): string {
  const scaled = value * 1000
  const below = Math.floor(scaled)
  if (scaled - below !== 0.5) return value.toFixed(3)
  return ((below % 2 === 0 ? below : below + 1) / 1000).toFixed(3)
}

export interface Measured {
  readonly verb: 'read' | 'wrote' | 'discard'
  readonly offset: number
  /** Bytes. */
  readonly length: number
  readonly seconds: number
  /** `-C`: one line of numbers with commas between them. */
  readonly machine: boolean
}

/** What a request did and how long it took, with newlines. */
export function report({ verb, offset, length, seconds, machine }: Measured): string {
  // A clock that has not moved must not divide by zero.
  const taken = Math.max(seconds, 1e-9)
  const bytesPerSecond = length / taken
  const perSecond = 1 / taken
  if (machine) {
    return `${length},1,${clock(seconds)},${bytesPerSecond.toFixed(3)},${perSecond.toFixed(3)}\n`
  }
  const time = seconds < 60 ? `${clock(seconds).slice(-5)} sec` : clock(seconds)
  return (
    `${verb} ${length}/${length} bytes at offset ${offset}\n` +
    `${amount(length)}, 1 ops; ${time} ` +
    `(${amount(bytesPerSecond)}/sec and ${perSecond.toFixed(4)} ops/sec)\n`
  )
}

/** `1:02:03.45` */
function clock(seconds: number): string {
  const hundredths = Math.floor(seconds * 100)
  const two = (value: number) => String(Math.floor(value)).padStart(2, '0')
  const minutes = Math.floor(hundredths / 6000)
  const rest = hundredths % 6000
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(rest / 100)}.${two(rest % 100)}`
}

const bytesPerLine = 16

/** Bytes as `read -v` shows them; `offset` is the first byte's place on the disk. */
export function* hexDump(bytes: Uint8Array, offset: number): Generator<string> {
  for (let at = 0; at < bytes.length; at += bytesPerLine) {
    const line = [...bytes.subarray(at, at + bytesPerLine)]
    const digits = line.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')
    const place = (offset + at).toString(16).padStart(8, '0')
    yield `${place}:  ${digits}  ${line.map(visible).join('')}\n`
  }
}

/** Letters and digits as they are, everything else as a dot. */
function visible(byte: number): string {
  const character = String.fromCharCode(byte)
  return /[A-Za-z0-9]/.test(character) ? character : '.'
}
