/** Patterns of GLib: `*` is any text, `?` one character; nothing else is special. */

/** In time that grows with the product of both lengths at most. */
export function globMatches(pattern: string, text: string): boolean {
  const wanted = [...pattern]
  const given = [...text]
  let at = 0
  let index = 0
  /** Where the last star is, and how far its text reaches. */
  let star = -1
  let reach = 0
  while (index < given.length) {
    if (wanted[at] === '*') {
      star = at
      reach = index
      at += 1
    } else if (wanted[at] === '?' || wanted[at] === given[index]) {
      at += 1
      index += 1
    } else if (star >= 0) {
      reach += 1
      index = reach
      at = star + 1
    } else {
      return false
    }
  }
  return wanted.slice(at).every((character) => character === '*')
}
