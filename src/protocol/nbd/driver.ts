/** Driver `nbd`: an export of an NBD server. The client is loaded when one is opened. */
import type { BlockDriver, NodeOptions } from '../../block/driver.ts'
import { OptionReader } from '../../block/options.ts'
import { BlockError } from '../../errors.ts'
import { NBD_MAX_STRING } from '../../wire/nbd/constants.ts'
import { takeAddress } from './address.ts'
import { parseNbdFilename } from './filename.ts'
import type { LinkOptions } from './link.ts'

export interface NbdOptions extends Omit<LinkOptions, 'contexts' | 'tls'> {
  /** Id of the credentials; without them nothing is encrypted. */
  readonly tlsCredentials?: string
  /** Whom the server's certificate must name; the host that was asked for unless given. */
  readonly tlsHostname?: string
  /** The context that is looked at instead of `base:allocation`. */
  readonly context?: string
}

export const nbd: BlockDriver<NbdOptions> = {
  name: 'nbd',
  kind: 'protocol',
  changeable: [],
  createsInPlace: true,
  parse: parseNbdOptions,
  parseFilename: parseNbdFilename,
  async open(options, context) {
    const { openNbdLayer } = await import('./layer.ts')
    return await openNbdLayer(options, context)
  },
}

function parseNbdOptions(options: NodeOptions): NbdOptions {
  const reader = new OptionReader(options)
  reader.take('driver')
  const address = takeAddress(reader)
  const exportName = reader.string('export') ?? ''
  const tlsCredentials = reader.string('tls-creds')
  const tlsHostname = reader.string('tls-hostname')
  const context = reader.string('x-dirty-bitmap')
  const openTimeoutMs = seconds(reader, 'open-timeout')
  const reconnectDelayMs = seconds(reader, 'reconnect-delay')
  reader.finish()
  if (Buffer.byteLength(exportName) > NBD_MAX_STRING) {
    throw new BlockError('INVALID_ARGUMENT', 'export name too long to send to server')
  }
  if (context !== undefined && Buffer.byteLength(context) > NBD_MAX_STRING) {
    throw new BlockError('INVALID_ARGUMENT', 'x-dirty-bitmap query too long to send to server')
  }
  return {
    address,
    exportName,
    openTimeoutMs,
    reconnectDelayMs,
    context,
    tlsCredentials,
    tlsHostname,
  }
}

/** A longer wait than this is nobody's wish: a day. */
const maxSeconds = 86_400

function seconds(reader: OptionReader, name: string): number {
  const value = reader.integer(name) ?? 0
  if (value < 0 || value > maxSeconds) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Parameter '${name}' expects a number of seconds up to ${maxSeconds}`,
    )
  }
  return value * 1000
}
