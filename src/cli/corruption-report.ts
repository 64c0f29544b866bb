/** Says on standard error, in QEMU's words, when an image is found corrupt while it is in use. */
import { subscribe } from 'node:diagnostics_channel'
import { type CorruptImage, corruptImages } from '../format/qcow2/corruption.ts'
import type { PlainIo } from './command.ts'

let listener: Pick<PlainIo, 'stderr'> | undefined

/** The tool that runs now; a process runs one, apart from tests, which run one after the other. */
export function reportCorruption(io: Pick<PlainIo, 'stderr'>): void {
  if (!listener) subscribe(corruptImages, report)
  listener = io
}

function report(message: unknown): void {
  const { message: text, fatal } = message as CorruptImage
  const what = fatal
    ? `Marking image as corrupt: ${text}; further corruption events`
    : `Image is corrupt: ${text}; further non-fatal corruption events`
  listener?.stderr.write(`qcow2: ${what} will be suppressed\n`)
}
