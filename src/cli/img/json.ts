/** JSON as QEMU prints it when it is to be read: four columns a level, the end of a list on a line of its own. */
export function prettyJson(value: unknown): string {
  const text = JSON.stringify(value, undefined, 4)
  return `${text.replace(/^( *)(.*)\[\](,?)$/gm, '$1$2[\n$1]$3')}\n`
}
