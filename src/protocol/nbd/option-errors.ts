/** What a server answers instead of doing what an option asks: as errors, in qemu's words. */
import { BlockError, type BlockErrorCode } from '../../errors.ts'
import {
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_BLOCK_SIZE_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from '../../wire/nbd/constants.ts'
import { decodeString } from '../../wire/nbd/handshake.ts'

export interface OptionReply {
  readonly type: number
  readonly data: Uint8Array
}

const optionNames: Readonly<Record<number, string>> = {
  [NBD_OPT_EXPORT_NAME]: 'export name',
  [NBD_OPT_ABORT]: 'abort',
  [NBD_OPT_LIST]: 'list',
  [NBD_OPT_STARTTLS]: 'starttls',
  [NBD_OPT_INFO]: 'info',
  [NBD_OPT_GO]: 'go',
  [NBD_OPT_STRUCTURED_REPLY]: 'structured reply',
  [NBD_OPT_LIST_META_CONTEXT]: 'list meta context',
  [NBD_OPT_SET_META_CONTEXT]: 'set meta context',
}

const replyNames: Readonly<Record<number, string>> = {
  [NBD_REP_ACK]: 'ack',
  [NBD_REP_SERVER]: 'server',
  [NBD_REP_INFO]: 'info',
  [NBD_REP_META_CONTEXT]: 'meta context',
}

interface Meaning {
  readonly code: BlockErrorCode
  readonly errno: string
  readonly text: (option: string) => string
}

const meanings: Readonly<Record<number, Meaning>> = {
  [NBD_REP_ERR_UNSUP]: {
    code: 'UNSUPPORTED',
    errno: 'ENOTSUP',
    text: (option) => `Server does not support ${option}`,
  },
  [NBD_REP_ERR_POLICY]: {
    code: 'PEER',
    errno: 'EINVAL',
    text: (option) => `Denied by server for ${option}`,
  },
  [NBD_REP_ERR_INVALID]: {
    code: 'PEER',
    errno: 'EINVAL',
    text: (option) => `Invalid parameters for ${option}`,
  },
  [NBD_REP_ERR_PLATFORM]: {
    code: 'UNSUPPORTED',
    errno: 'EINVAL',
    text: (option) => `Server lacks support for ${option}`,
  },
  [NBD_REP_ERR_TLS_REQD]: {
    code: 'UNSUPPORTED',
    errno: 'EINVAL',
    text: (option) =>
      `TLS negotiation required before ${option}\nDid you forget a valid tls-creds?`,
  },
  [NBD_REP_ERR_UNKNOWN]: {
    code: 'INVALID_ARGUMENT',
    errno: 'EINVAL',
    text: () => 'Requested export not available',
  },
  [NBD_REP_ERR_SHUTDOWN]: {
    code: 'CLOSED',
    errno: 'EINVAL',
    text: (option) => `Server shutting down before ${option}`,
  },
  [NBD_REP_ERR_BLOCK_SIZE_REQD]: {
    code: 'UNSUPPORTED',
    errno: 'EINVAL',
    text: (option) => `Server requires INFO_BLOCK_SIZE for ${option}`,
  },
}

const unknown: Meaning = {
  code: 'PEER',
  errno: 'EINVAL',
  text: (option) => `Unknown error code when asking for ${option}`,
}

/** For a reply that is neither consent nor what was asked for. */
export function optionError(option: number, { type, data }: OptionReply): BlockError {
  const named = `option ${option} (${optionNames[option] ?? '<unknown>'})`
  if (type < NBD_REP_FLAG_ERROR) {
    const reply = `${type} (${replyNames[type] ?? '<unknown>'})`
    return new BlockError('PEER', `Server answered ${named} with unexpected reply ${reply}`, {
      errno: 'EINVAL',
    })
  }
  const { code, errno, text } = meanings[type] ?? unknown
  const said = data.length > 0 ? `\nserver reported: ${decodeString(data)}` : ''
  return new BlockError(code, `${text(named)}${said}`, { errno })
}
