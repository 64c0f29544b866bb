/** What the users of a node may do to it, and bear others doing. */

/**
 * What a child is to its parent. It decides the permissions on the edge and the flags that the
 * child inherits; the child's name in the graph is the role's, `filtered` children being called
 * `file` as in QEMU, unless the parent names it. `data` is one of several children that hold the
 * disk, or something beside it (quorum's and blkverify's, the log of blklogwrites).
 */
export type ChildRole = 'file' | 'data-file' | 'backing' | 'filtered' | 'target' | 'data'

/** What the user of a node may do to it, and what it lets others do meanwhile. */
export type Permission = 'consistentRead' | 'write' | 'writeUnchanged' | 'resize'

/** What one user of a node does (`uses`) and bears others doing meanwhile (`shares`). */
export interface Permissions {
  readonly uses: ReadonlySet<Permission>
  readonly shares: ReadonlySet<Permission>
}

/** What the users of a node use and share together. */
export interface Needs extends Permissions {
  /** Whether there are users, who may need nothing. */
  readonly used: boolean
}

export const allPermissions: readonly Permission[] = [
  'consistentRead',
  'write',
  'writeUnchanged',
  'resize',
]

export const everyPermission: ReadonlySet<Permission> = new Set(allPermissions)
export const noPermission: ReadonlySet<Permission> = new Set()

export function permissionSet(...permissions: Permission[]): ReadonlySet<Permission> {
  return new Set(permissions)
}
