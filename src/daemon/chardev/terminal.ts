/** What Node does not offer of terminals, by ioctl(2): tty(4), ioctl_tty(2). */

import { unsupported } from '../../errors.ts'
import { sys } from '../../sys/current.ts'

/** These numbers are those of Linux on all architectures that koffi runs on but powerpc. */
const TCGETS = 0x5401
const TCSETS = 0x5402
const TIOCGPTN = 0x80045430
const TIOCSPTLCK = 0x40045431

/** `struct termios` of the kernel: four words of flags, the line discipline, 19 characters. */
const termiosLength = 64
const words = { input: 0, output: 1, control: 2, local: 3 } as const
const charactersOffset = 17
const VTIME = 5
const VMIN = 6

/** termios(3): IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON. */
const inputModes = 0o2753
/** OPOST */
const outputModes = 0o1
/** ISIG ICANON ECHO ECHONL IEXTEN */
const localModes = 0o100113
/** CSIZE PARENB; CS8 */
const characterModes = 0o460
const eightBits = 0o60
/** CBAUD; B115200 CREAD CLOCAL */
const speedModes = 0o10017
const fastLine = 0o10002 + 0o200 + 0o4000

export function requireTerminals(): void {
  if (sys().supported.ioctl && process.arch !== 'ppc64') return
  throw unsupported('terminals are not supported on this system')
}

/** The number of the terminal whose other end `master` is; it can be opened from now on. */
export async function unlockTerminal(master: number): Promise<number> {
  const number = new Uint32Array(1)
  await ioctl(master, TIOCSPTLCK, new Uint32Array(1))
  await ioctl(master, TIOCGPTN, number)
  return number[0]
}

/** Bytes pass as they are, as cfmakeraw(3) has it. */
export async function makeRaw(terminal: number): Promise<void> {
  await changeModes(terminal, (flags) => flags)
}

/** Raw, and at 115200 baud. */
export async function makeSerialLine(terminal: number): Promise<void> {
  await changeModes(terminal, (flags) => withFlags(flags, speedModes, fastLine))
}

async function changeModes(terminal: number, control: (flags: number) => number): Promise<void> {
  const termios = new Uint8Array(termiosLength)
  await ioctl(terminal, TCGETS, termios)
  const flags = new Uint32Array(termios.buffer, 0, 4)
  flags[words.input] = withFlags(flags[words.input], inputModes, 0)
  flags[words.output] = withFlags(flags[words.output], outputModes, 0)
  flags[words.local] = withFlags(flags[words.local], localModes, 0)
  flags[words.control] = control(withFlags(flags[words.control], characterModes, eightBits))
  termios[charactersOffset + VMIN] = 1
  termios[charactersOffset + VTIME] = 0
  await ioctl(terminal, TCSETS, termios)
}

/** Flags are words of 32 bits, not offsets. */
function withFlags(flags: number, cleared: number, set: number): number {
  return (flags & ~cleared) | set
}

async function ioctl(fd: number, request: number, argument: Uint8Array | Uint32Array) {
  await sys().ioctl(fd, request, new Uint8Array(argument.buffer))
}
