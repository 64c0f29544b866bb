/** What one client may cost. Each number has its reason in docs/nbd-server.md. */
import { KiB, MiB } from '../../bytes/range.ts'
import { NBD_PORTABLE_PAYLOAD } from '../../wire/nbd/constants.ts'

/** Bytes of the longest read, write, cache or write-zeroes request. Longer ones get NBD_EINVAL. */
export const maxRequestLength = NBD_PORTABLE_PAYLOAD

/** Payloads of refused writes up to this are read and dropped; a longer one ends the connection. */
export const maxDrainedPayload = 64 * MiB

/** Requests of one connection that are worked on at the same time; further ones wait unread. */
export const maxRequestsInFlight = 128

/**
 * Bytes of one connection in buffers: payloads being written, data read but not yet taken by the
 * client. A single request may be longer than what is left of it when nothing else is in flight.
 */
export const maxBytesInFlight = 32 * MiB

/** Reads are done, and answered where the protocol allows it, in pieces of this many bytes. */
export const readPieceLength = 512 * KiB

/** From this many bytes on, a read asks where the holes are instead of reading them. */
export const holeProbeLength = 64 * KiB

/** Pieces, of data or hole, that a read is cut into; what is left is read as one run of data. */
export const maxReadPieces = 256

/** Pieces of one long read that are read at the same time. */
export const maxPiecesInFlight = 4

/** Descriptors in one block status chunk. The client asks again for what is left. */
export const maxStatusExtents = 1024

/** Runs looked at for one such chunk; many runs can make one descriptor. */
export const maxStatusLookups = 16384

/** Bytes of ready replies that are handed to the socket without waiting for more. */
export const flushLength = 128 * KiB

/** Bytes of replies that a TLS session enciphers at a time; the next when they have left. */
export const maxEnciphered = 128 * KiB

/** Bytes of one slab, where replies lie one behind the other. */
export const slabLength = 256 * KiB

/** Bytes of unused slabs and buffers that a server keeps. */
export const maxPooledBytes = 16 * MiB

/** Bytes that are freed before the server asks for them to be given back to the system. */
export const muchFreed = 128 * MiB

/** Bytes of data of one option. Longer ones are dropped and answered with NBD_REP_ERR_TOO_BIG. */
export const maxOptionLength = 64 * KiB

/** Longer options end the connection. */
export const maxDrainedOption = 32 * MiB

/** Queries in one request for metadata contexts. */
export const maxContextQueries = 256

/** Bytes of the payload of a block status request, which names some of those contexts. */
export const maxStatusPayload = 8 + 4 * maxContextQueries

/** Bytes of replies to options that a client may leave unread before its next option waits. */
export const maxUnreadReplies = 1 * MiB

/** Time for a client to get from connecting to the transmission phase, in milliseconds. */
export const handshakeTimeoutMs = 30_000

/** Silence after which the kernel asks whether the client is still there, in milliseconds. */
export const keepAliveMs = 60_000

/** Time for a client to take its last replies when the server wants to close, in milliseconds. */
export const drainTimeoutMs = 5_000

/** Simultaneous clients, unless said otherwise. */
export const defaultMaxConnections = 100

/** Clients that wait for one of those places; further ones are turned away. */
export const maxWaitingConnections = 128
