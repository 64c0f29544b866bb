/** Driver `nbd`: an export of an NBD server. */
import type { BlockDriver, NodeOptions } from '../../block/driver.ts'
import { OptionReader } from '../../block/options.ts'
import { BlockError } from '../../errors.ts'
import { NBD_MAX_STRING } from '../../wire/nbd/constants.ts'
import { exportUrl, takeAddress } from './address.ts'
import { parseNbdFilename } from './filename.ts'
import { allocationContext, NbdLayer } from './layer.ts'
import { Link, type LinkOptions } from './link.ts'

export const nbd: BlockDriver<LinkOptions> = {
  name: 'nbd',
  kind: 'protocol',
  parse: parseNbdOptions,
  parseFilename: parseNbdFilename,
  async open(options, { signal, flags }) {
    const link = await Link.open(options, signal)
    const layer = new NbdLayer(link, link.facts, exportUrl(options.address, options.exportName))
    if (flags.readOnly || layer.capabilities.write) return layer
    await layer[Symbol.asyncDispose]()
    throw new BlockError('READ_ONLY', 'request on write denied without write permission', {
      errno: 'EACCES',
    })
  },
}

function parseNbdOptions(options: NodeOptions): LinkOptions {
  const reader = new OptionReader(options)
  reader.take('driver')
  const address = takeAddress(reader)
  const exportName = reader.string('export') ?? ''
  refuse(reader, 'tls-creds', 'TLS to an NBD server is not supported')
  refuse(reader, 'tls-hostname', 'TLS to an NBD server is not supported')
  refuse(reader, 'x-dirty-bitmap', 'reading a dirty bitmap over NBD is not supported')
  const openTimeoutMs = seconds(reader, 'open-timeout')
  const reconnectDelayMs = seconds(reader, 'reconnect-delay')
  reader.finish()
  if (Buffer.byteLength(exportName) > NBD_MAX_STRING) {
    throw new BlockError('INVALID_ARGUMENT', 'export name too long to send to server')
  }
  return { address, exportName, contexts: [allocationContext], openTimeoutMs, reconnectDelayMs }
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

function refuse(reader: OptionReader, name: string, why: string): void {
  if (reader.take(name) !== undefined) throw new BlockError('UNSUPPORTED', `${why} ('${name}')`)
}
