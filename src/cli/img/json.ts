/** JSON as QEMU prints it when it is to be read: four columns a level. */
export function prettyJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 4)}\n`
}
