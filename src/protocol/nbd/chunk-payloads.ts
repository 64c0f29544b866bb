/** What the small chunks of a reply say. Undefined where the payload does not have their form. */
import { viewOf } from '../../bytes/view.ts'
import {
  NBD_EINVAL,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
} from '../../wire/nbd/constants.ts'
import { compactStatus, type Layout } from '../../wire/nbd/layout.ts'
import { decodeU64 } from '../../wire/nbd/transmission.ts'

/** The part of the export that reads as zeroes. */
export function holeOf(payload: Uint8Array): { offset: number; length: number } | undefined {
  if (payload.length !== 12) return undefined
  const view = viewOf(payload)
  return { offset: decodeU64(view, 0), length: view.getUint32(8) }
}

/** The error value; never NBD_SUCCESS. */
export function errorValueIn(payload: Uint8Array): number | undefined {
  if (payload.length < 6) return undefined
  const view = viewOf(payload)
  if (view.getUint16(4) > payload.length - 6) return undefined
  return view.getUint32(0) || NBD_EINVAL
}

export function isStatus(type: number): boolean {
  return type === NBD_REPLY_TYPE_BLOCK_STATUS || type === NBD_REPLY_TYPE_BLOCK_STATUS_EXT
}

export interface StatusOfContext {
  readonly contextId: number
  /** One behind the other, none of them empty. */
  readonly runs: readonly { readonly length: number; readonly flags: number }[]
}

/** With extended headers a server may still choose the short form. */
export function statusOf(
  layout: Layout,
  type: number,
  payload: Uint8Array,
): StatusOfContext | undefined {
  const form = type === NBD_REPLY_TYPE_BLOCK_STATUS ? compactStatus : layout.status
  const count = (payload.length - form.headSize) / form.size
  if (type !== form.type || !Number.isInteger(count) || count < 1) return undefined
  const view = viewOf(payload)
  if (form.count(view, count) !== count) return undefined
  const runs = Array.from({ length: count }, (_, index) =>
    form.decode(view, form.headSize + form.size * index),
  )
  if (runs.some(({ length }) => length === 0)) return undefined
  return { contextId: view.getUint32(0), runs }
}
