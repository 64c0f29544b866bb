/**
 * File names that are NBD exports: URIs (doc/uri.md of the NBD project) and the older forms
 * `nbd:HOST:PORT[:exportname=NAME]` and `nbd:unix:PATH[:exportname=NAME]`.
 */
import type { NodeOptions } from '../../block/driver.ts'
import { BlockError, invalid } from '../../errors.ts'
import { NBD_DEFAULT_PORT } from '../../wire/nbd/constants.ts'

const uriScheme = /^(nbd|nbd\+tcp|nbd\+unix):\/\//

/** Options of the driver, or undefined when the name is none of ours. */
export function parseNbdFilename(filename: string): NodeOptions | undefined {
  const scheme = uriScheme.exec(filename)?.[1]
  if (scheme !== undefined) return parseUri(filename, scheme === 'nbd+unix')
  return filename.startsWith('nbd:') ? parseOldName(filename.slice('nbd:'.length)) : undefined
}

function parseUri(filename: string, unix: boolean): NodeOptions {
  const uri = parsedUrl(filename)
  const name = decoded(uri.pathname.replace(/^\//, ''), filename)
  const exported = name === '' ? {} : { export: name }
  const parameters = [...uri.searchParams]
  if (unix) {
    const [[key, path] = [], ...others] = parameters
    if (key !== 'socket' || others.length > 0 || uri.host !== '') throw noUrl(filename)
    return { server: { type: 'unix', path }, ...exported }
  }
  if (parameters.length > 0 || uri.hostname === '') throw noUrl(filename)
  const host = decoded(uri.hostname.replace(/^\[(.*)\]$/, '$1'), filename)
  return { server: { type: 'inet', host, port: uri.port || `${NBD_DEFAULT_PORT}` }, ...exported }
}

function parsedUrl(filename: string): URL {
  try {
    return new URL(filename)
  } catch {
    throw noUrl(filename)
  }
}

function decoded(text: string, filename: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw noUrl(filename)
  }
}

function noUrl(filename: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', 'No valid URL specified', {
    path: filename,
    errno: 'EINVAL',
  })
}

function parseOldName(rest: string): NodeOptions {
  const mark = ':exportname='
  const at = rest.indexOf(mark)
  const address = at < 0 ? rest : rest.slice(0, at)
  const name = at < 0 ? '' : rest.slice(at + mark.length)
  return { server: oldAddress(address), ...(name === '' ? {} : { export: name }) }
}

function oldAddress(address: string): NodeOptions {
  if (address === '') {
    throw invalid('NBD server address missing')
  }
  if (address.startsWith('unix:')) return { type: 'unix', path: address.slice('unix:'.length) }
  const [, bracketed, plain, port] = /^(?:\[([^\]]*)\]|([^:]*)):([^:]*)$/.exec(address) ?? []
  const host = bracketed ?? plain
  if (host === undefined) {
    throw invalid(`error parsing address '${address}'`)
  }
  return { type: 'inet', host, port }
}
