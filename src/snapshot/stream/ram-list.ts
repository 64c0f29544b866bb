/** The list of RAM blocks with which the section `ram` begins. */

export interface RamBlock {
  /** `pc.ram`, `/rom@etc/acpi/tables`. */
  readonly name: string
  /** Bytes that the block uses. */
  readonly usedLength: number
  /** Bytes of a host page, where that is not the host's usual one and the source told. */
  readonly pageSize?: number
  /** Guest-physical address, which sources with `x-ignore-shared` tell. */
  readonly guestAddress?: number
}

/** RAM of more blocks than that is refused. */
export const maxRamBlocks = 65536
