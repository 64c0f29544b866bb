/**
 * Formats that are recognised but cannot be opened yet. Without them such an image would be taken
 * for a raw disk, and its headers for a guest's data; so probing refuses each by name.
 */
type Probe = (head: Uint8Array) => boolean

const startsWith =
  (magic: string): Probe =>
  (head) =>
    textAt(head, 0, magic.length) === magic

/** Where each format's specification puts its mark, at the start of the file. */
const marks: Readonly<Record<string, Probe>> = {
  // QCOW version 1; versions 2 and 3 are qcow2.
  qcow: (head) => textAt(head, 0, 4) === 'QFI\xfb' && head[7] === 1,
  qed: startsWith('QED\0'),
  vmdk: (head) =>
    ['KDMV', 'COWD'].includes(textAt(head, 0, 4)) ||
    /^# Disk DescriptorFile/m.test(textAt(head, 0, 512)),
  vpc: startsWith('conectix'),
  vhdx: startsWith('vhdxfile'),
  vdi: (head) => textAt(head, 0x40, 4) === '\x7f\x10\xda\xbe',
  parallels: (head) => ['WithoutFreeSpace', 'WithouFreSpacExt'].includes(textAt(head, 0, 16)),
  luks: startsWith('LUKS\xba\xbe'),
  bochs: startsWith('Bochs Virtual HD Image'),
  cloop: startsWith('#!/bin/sh\n#V2.0 Format\nmodprobe cloop'),
}

/** The name of the format, or undefined where the bytes are of none of these. */
export function recognisedFormat(head: Uint8Array): string | undefined {
  return Object.keys(marks).find((name) => marks[name](head))
}

/** Whether a disk that begins with these bytes would be taken for an image of some format. */
export function looksFormatted(head: Uint8Array): boolean {
  return textAt(head, 0, 4) === 'QFI\xfb' || recognisedFormat(head) !== undefined
}

function textAt(head: Uint8Array, at: number, length: number): string {
  return Buffer.from(head.subarray(at, at + length)).toString('latin1')
}
