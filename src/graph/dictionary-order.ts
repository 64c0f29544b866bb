/** The order in which QEMU goes through the members of a dictionary: by the hash of their names. */

const buckets = 512

/** The hash of Samba's trivial database; found to be QEMU's order of names. */
export function bucketOf(name: string): number {
  let hash = Math.imul(0x238f13af, name.length) >>> 0
  for (let at = 0; at < name.length; at++) {
    hash = (hash + (name.charCodeAt(at) << ((at * 5) % 24))) >>> 0
  }
  return ((Math.imul(1103515243, hash) + 12345) >>> 0) % buckets
}
