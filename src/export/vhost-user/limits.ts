/** What one client of a vhost-user export may cost. */
import { KiB, MiB } from '../../bytes/range.ts'

/** Bytes of a message's payload; the longest that there is has 8 regions of memory. */
export const maxPayload = 512

/** Regions of guest memory, as QEMU. */
export const maxRegions = 32

/** Descriptors of a ring, and of one request. */
export const maxQueueSize = 1024
export const maxChain = 1024

/** Queues that a client can name: messages have 8 bits for them. */
export const maxQueues = 256

/** Requests that a client has under way; further ones stay in its rings. */
export const maxRequestsInFlight = 256

/** Bytes of their buffers together. */
export const maxBytesInFlight = 32 * MiB

/** A longer request is done in pieces of this many bytes, one after the other. */
export const pieceLength = MiB

/** Requests that are taken from a ring before others have their turn. */
export const maxBatch = 64

/** Descriptors of a batch, of which the last chain may exceed it: a long chain takes long to follow. */
export const maxBatchDescriptors = 2048

/** Milliseconds of one queue's batches before others have their turn. */
export const maxTurnMs = 2

/** Bytes of the indirect tables of one batch. */
export const maxIndirectBytes = 64 * KiB

/** Clients that wait for the one before them. */
export const maxWaitingClients = 16

/** Bytes of a log of dirty pages: it stands for 32 TiB of guest memory. */
export const maxLogLength = 1024 * MiB

/** Unused buffers that are kept. */
export const maxSpareBytes = 8 * MiB
