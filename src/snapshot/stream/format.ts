/**
 * Numbers of QEMU's migration stream, versions 7.2 to 10: tokens, flags of RAM records, commands,
 * and messages of the return path. All integers in the stream are big-endian.
 */

export const QEMU_VM_FILE_MAGIC = 0x5145564d
export const QEMU_VM_FILE_VERSION = 3

export const token = {
  QEMU_VM_EOF: 0x00,
  QEMU_VM_SECTION_START: 0x01,
  QEMU_VM_SECTION_PART: 0x02,
  QEMU_VM_SECTION_END: 0x03,
  QEMU_VM_SECTION_FULL: 0x04,
  QEMU_VM_SUBSECTION: 0x05,
  QEMU_VM_VMDESCRIPTION: 0x06,
  QEMU_VM_CONFIGURATION: 0x07,
  QEMU_VM_COMMAND: 0x08,
  QEMU_VM_SECTION_FOOTER: 0x7e,
} as const

/** In the low bits of a RAM record's offset. */
export const ramFlag = {
  RAM_SAVE_FLAG_ZERO: 0x02,
  RAM_SAVE_FLAG_MEM_SIZE: 0x04,
  RAM_SAVE_FLAG_PAGE: 0x08,
  RAM_SAVE_FLAG_EOS: 0x10,
  RAM_SAVE_FLAG_CONTINUE: 0x20,
  RAM_SAVE_FLAG_XBZRLE: 0x40,
  RAM_SAVE_FLAG_HOOK: 0x80,
  RAM_SAVE_FLAG_COMPRESS_PAGE: 0x100,
  RAM_SAVE_FLAG_MULTIFD_FLUSH: 0x200,
} as const

export const command = {
  MIG_CMD_OPEN_RETURN_PATH: 1,
  MIG_CMD_PING: 2,
  MIG_CMD_POSTCOPY_ADVISE: 3,
  MIG_CMD_POSTCOPY_LISTEN: 4,
  MIG_CMD_POSTCOPY_RUN: 5,
  MIG_CMD_POSTCOPY_RAM_DISCARD: 6,
  MIG_CMD_PACKAGED: 7,
  MIG_CMD_ENABLE_COLO: 8,
  MIG_CMD_POSTCOPY_RESUME: 9,
  MIG_CMD_RECV_BITMAP: 10,
  MIG_CMD_SWITCHOVER_START: 11,
} as const

/** Messages from the loading QEMU back to the source. */
export const returnMessage = {
  MIG_RP_MSG_SHUT: 1,
  MIG_RP_MSG_PONG: 2,
  MIG_RP_MSG_REQ_PAGES_ID: 3,
  MIG_RP_MSG_REQ_PAGES: 4,
  MIG_RP_MSG_RECV_BITMAP: 5,
  MIG_RP_MSG_RESUME_ACK: 6,
  MIG_RP_MSG_SWITCHOVER_ACK: 7,
} as const

/** The only version of the section `ram` since QEMU 0.12. */
export const ramSectionVersion = 4

/** Bytes; the smallest and largest target page that QEMU has. */
export const minPageSize = 1024
export const maxPageSize = 65536
export const defaultPageSize = 4096

/** Of a name with a length of one byte. */
export const maxNameBytes = 255
