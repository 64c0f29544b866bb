import { printJson } from '../../wire/qmp/printer.ts'

/** JSON as QEMU prints it when it is to be read: ASCII, four columns a level. */
export function prettyJson(value: unknown): string {
  return `${printJson(value, true)}\n`
}
