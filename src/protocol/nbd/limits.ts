/** What a server may cost, and how long it may be silent. */
import { KiB } from '../../bytes/range.ts'

/** Requests of one connection at the same time; further ones wait. */
export const maxRequestsInFlight = 64

/** Bytes of data of one reply to an option. */
export const maxOptionReply = 64 * KiB

/** Replies to one option: names of exports, contexts. */
export const maxOptionReplies = 10_000

/** Bytes of payload of an error or block status chunk. */
export const maxChunkPayload = 64 * KiB

/** Bytes of one block status or discard request, which have no payload to bound them. */
export const maxLongRequest = 2 ** 31

/** Time for a server to get through connecting and the handshake, in milliseconds. */
export const handshakeTimeoutMs = 30_000

/** Time for the last bytes to leave when a connection is closed, in milliseconds. */
export const closeTimeoutMs = 2_000

/** Silence after which the kernel asks whether the server is still there, in milliseconds. */
export const keepAliveMs = 60_000

/** Pause between attempts to reconnect, in milliseconds. */
export const reconnectPauseMs = 250
