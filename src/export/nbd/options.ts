/** The answer to each option of the handshake. */
import { BlockError } from '../../errors.ts'
import {
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from '../../wire/nbd/constants.ts'
import {
  decodeContextRequest,
  decodeInfoRequest,
  decodeString,
  encodeContextReply,
  encodeInfoExport,
  encodeInfoText,
  encodeServerReply,
  exportNamePadding,
  exportNameReply,
  infoBlockSize,
} from '../../wire/nbd/handshake.ts'
import { listContexts, selectContexts } from './contexts.ts'
import type { NbdExport } from './export.ts'
import { maxContextQueries } from './limits.ts'
import type { Agreement, NegotiationHost, NegotiationState, Option } from './negotiation.ts'

/** How the session goes on. */
export type Outcome = 'next' | 'tls' | 'close' | Agreement

/** Sends one reply to an option. */
export interface Replier {
  reply(option: number, type: number, data?: Uint8Array): void
}

interface Session {
  readonly host: NegotiationHost
  readonly state: NegotiationState
  reply(type: number, data?: Uint8Array): void
  /** An error with a text for people. */
  refuse(type: number, text: string): 'next'
}

type Handler = (session: Session, option: Option) => Outcome

const handlers: Readonly<Record<number, Handler>> = {
  [NBD_OPT_EXPORT_NAME]: exportName,
  [NBD_OPT_ABORT]: abort,
  [NBD_OPT_LIST]: list,
  [NBD_OPT_STARTTLS]: startTls,
  [NBD_OPT_INFO]: info,
  [NBD_OPT_GO]: info,
  [NBD_OPT_STRUCTURED_REPLY]: structuredReply,
  [NBD_OPT_LIST_META_CONTEXT]: listMetaContext,
  [NBD_OPT_SET_META_CONTEXT]: setMetaContext,
  [NBD_OPT_EXTENDED_HEADERS]: extendedHeaders,
}

export function answerOption(
  replier: Replier,
  host: NegotiationHost,
  state: NegotiationState,
  option: Option,
): Outcome {
  const session: Session = {
    host,
    state,
    reply: (type, data) => replier.reply(option.option, type, data),
    refuse(type, text) {
      replier.reply(option.option, type, Buffer.from(text))
      return 'next'
    },
  }
  const barred = barrier(session, option)
  if (barred) return barred
  const handler = handlers[option.option]
  if (!handler) return session.refuse(NBD_REP_ERR_UNSUP, `option ${option.option} is not supported`)
  try {
    return handler(session, option)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    return session.refuse(NBD_REP_ERR_INVALID, error.message)
  }
}

/** Options that are not even looked at, because of TLS or of a shutdown. */
function barrier({ host, refuse }: Session, { option }: Option): Outcome | undefined {
  if (option === NBD_OPT_ABORT) return undefined
  const needsTls = host.tls === 'required' && option !== NBD_OPT_STARTTLS
  if (!needsTls && !host.shuttingDown) return undefined
  if (option === NBD_OPT_EXPORT_NAME) return 'close'
  return needsTls
    ? refuse(NBD_REP_ERR_TLS_REQD, `Option 0x${option.toString(16)} not permitted before TLS`)
    : refuse(NBD_REP_ERR_SHUTDOWN, 'the server is shutting down')
}

/** It has no way to tell of errors: the session ends instead. Extended headers forbid it. */
function exportName({ host, state }: Session, { data }: Option): Outcome {
  const name = exportNameOf(data)
  const found = name === undefined ? undefined : host.exports.get(name)
  if (!found || state.replies === 'extended') return 'close'
  const transmissionFlags = found.transmissionFlags(state.replies, false)
  host.send(exportNameReply.encode({ size: BigInt(found.layer.size), transmissionFlags }))
  if (!state.noZeroes) host.send(new Uint8Array(exportNamePadding))
  return agreementOn(found, state)
}

function exportNameOf(data: Uint8Array): string | undefined {
  try {
    return decodeString(data)
  } catch {
    return undefined
  }
}

function abort({ reply }: Session): Outcome {
  reply(NBD_REP_ACK)
  return 'close'
}

function list({ host, reply, refuse }: Session, { data }: Option): Outcome {
  if (data.length > 0) return refuse(NBD_REP_ERR_INVALID, 'NBD_OPT_LIST has no data')
  for (const { name, description } of host.exports.values()) {
    reply(NBD_REP_SERVER, encodeServerReply(name, description))
  }
  reply(NBD_REP_ACK)
  return 'next'
}

function startTls({ host, reply, refuse }: Session, { data }: Option): Outcome {
  if (host.tls === 'none') return refuse(NBD_REP_ERR_POLICY, 'TLS not configured')
  if (host.tls === 'active') return refuse(NBD_REP_ERR_INVALID, 'TLS has been started already')
  if (data.length > 0) return refuse(NBD_REP_ERR_INVALID, 'NBD_OPT_STARTTLS has no data')
  reply(NBD_REP_ACK)
  return 'tls'
}

/** NBD_OPT_INFO and NBD_OPT_GO. */
function info(session: Session, { option, data }: Option): Outcome {
  const { host, state, reply, refuse } = session
  const { name, requests } = decodeInfoRequest(data)
  const found = host.exports.get(name)
  if (!found) return refuse(NBD_REP_ERR_UNKNOWN, `export '${name}' not present`)
  const flags = found.transmissionFlags(state.replies, contextsOf(found, state).length > 0)
  reply(NBD_REP_INFO, encodeInfoExport(found.layer.size, flags))
  for (const request of new Set(requests)) {
    const payload = infoPayload(found, request)
    if (payload) reply(NBD_REP_INFO, payload)
  }
  reply(NBD_REP_ACK)
  return option === NBD_OPT_GO ? agreementOn(found, state) : 'next'
}

/** Requests that we do not know are ignored, as specified. */
function infoPayload(found: NbdExport, type: number): Uint8Array | undefined {
  if (type === NBD_INFO_NAME) return encodeInfoText(type, found.name)
  if (type === NBD_INFO_BLOCK_SIZE) return infoBlockSize.encode({ type, ...found.announced })
  if (type === NBD_INFO_DESCRIPTION && found.description) {
    return encodeInfoText(type, found.description)
  }
  return undefined
}

function agreementOn(found: NbdExport, state: NegotiationState): Agreement {
  return { export: found, replies: state.replies, contexts: contextsOf(found, state) }
}

/** Those that have been selected for this export. */
function contextsOf(found: NbdExport, { selection }: NegotiationState): Agreement['contexts'] {
  return selection?.exportName === found.name ? selection.contexts : []
}

function structuredReply({ state, reply, refuse }: Session, { data }: Option): Outcome {
  if (data.length > 0) return refuse(NBD_REP_ERR_INVALID, 'NBD_OPT_STRUCTURED_REPLY has no data')
  if (state.replies === 'extended') {
    return refuse(NBD_REP_ERR_EXT_HEADER_REQD, 'extended headers already negotiated')
  }
  state.replies = 'structured'
  reply(NBD_REP_ACK)
  return 'next'
}

/** Takes the place of structured replies, whether those have been asked for or not. */
function extendedHeaders({ state, reply, refuse }: Session, { data }: Option): Outcome {
  if (data.length > 0) return refuse(NBD_REP_ERR_INVALID, 'NBD_OPT_EXTENDED_HEADERS has no data')
  if (state.replies === 'extended') {
    return refuse(NBD_REP_ERR_INVALID, 'extended headers already negotiated')
  }
  state.replies = 'extended'
  reply(NBD_REP_ACK)
  return 'next'
}

function listMetaContext(session: Session, { data }: Option): Outcome {
  return answerContexts(session, data, (found, queries) => {
    for (const { name } of listContexts(found.contexts, queries)) {
      session.reply(NBD_REP_META_CONTEXT, encodeContextReply(0, name))
    }
  })
}

/** Whatever comes of it, what was selected before no longer is. */
function setMetaContext(session: Session, { data }: Option): Outcome {
  const { state, reply } = session
  state.selection = undefined
  return answerContexts(session, data, (found, queries) => {
    const contexts = selectContexts(found.contexts, queries).map((context, id) => ({ id, context }))
    for (const { id, context } of contexts) {
      reply(NBD_REP_META_CONTEXT, encodeContextReply(id, context.name))
    }
    state.selection = { exportName: found.name, contexts }
  })
}

function answerContexts(
  { host, state, reply, refuse }: Session,
  data: Uint8Array,
  answer: (found: NbdExport, queries: readonly string[]) => void,
): Outcome {
  const { name, queries } = decodeContextRequest(data)
  if (state.replies === 'simple')
    return refuse(NBD_REP_ERR_INVALID, 'contexts need structured replies')
  if (queries.length > maxContextQueries) {
    return refuse(NBD_REP_ERR_TOO_BIG, `more than ${maxContextQueries} queries`)
  }
  const found = host.exports.get(name)
  if (!found) return refuse(NBD_REP_ERR_UNKNOWN, `export '${name}' not present`)
  answer(found, queries)
  reply(NBD_REP_ACK)
  return 'next'
}
