/** JSON as QEMU prints it: ASCII only, a space behind commas and colons; or indented by four. */

/** Prints what `JSON.stringify` would, and bigints as integers. `undefined` members are left out. */
export function printJson(value: unknown, pretty = false): string {
  return print(value, pretty ? '\n' : undefined)
}

/** `newline`: the line break and indentation of this level when pretty-printing. */
function print(value: unknown, newline: string | undefined): string {
  if (typeof value === 'bigint') return String(value)
  if (typeof value === 'string') return printString(value)
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null'
  const inner = newline === undefined ? undefined : `${newline}    `
  if (Array.isArray(value)) {
    return enclose(
      '[]',
      value.map((each) => print(each, inner)),
      newline,
    )
  }
  const members = Object.entries(value).filter(([, member]) => member !== undefined)
  return enclose(
    '{}',
    members.map(([key, member]) => `${printString(key)}: ${print(member, inner)}`),
    newline,
  )
}

function enclose(brackets: string, items: readonly string[], newline: string | undefined): string {
  const [open, close] = brackets
  if (newline === undefined) return open + items.join(', ') + close
  if (items.length === 0) return open + newline + close
  return `${open}${newline}    ${items.join(`,${newline}    `)}${newline}${close}`
}

function printString(text: string): string {
  return JSON.stringify(text).replaceAll(/[\u007f-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`
  })
}
