/** Two answers as JSON, told by the places where they differ. */

export function differences(theirs: string, ours: string): string {
  const found: string[] = []
  compare(parsed(theirs), parsed(ours), '', found)
  return found.join('\n')
}

function parsed(text: string): unknown {
  return text.startsWith('[') || text.startsWith('{') ? JSON.parse(text) : text
}

function compare(theirs: unknown, ours: unknown, place: string, found: string[]): void {
  const [their, our] = [theirs, ours].map((value) => JSON.stringify(value))
  if (their === our) return
  if (isObject(theirs) && isObject(ours) && Array.isArray(theirs) === Array.isArray(ours)) {
    for (const key of new Set([...Object.keys(theirs), ...Object.keys(ours)])) {
      compare(theirs[key], ours[key], `${place}.${key}`, found)
    }
  } else found.push(`  at ${place}\n    theirs ${their}\n    ours   ${our}`)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
