/** Positions on the disk and in the file are both numbers; types keep them from being mixed up. */

declare const guest: unique symbol
declare const host: unique symbol

/** Byte offset on the virtual disk. */
export type GuestOffset = number & { readonly [guest]: true }

/** Byte offset in the image file. */
export type HostOffset = number & { readonly [host]: true }

export function guestOffset(offset: number): GuestOffset {
  return offset as GuestOffset
}

export function hostOffset(offset: number): HostOffset {
  return offset as HostOffset
}

/** Consecutive clusters of the file. */
export interface HostRun {
  readonly offset: HostOffset
  /** In clusters. */
  readonly count: number
}
