/** Addresses of QMP, as Node's sockets take them. */

import { lookup } from 'node:dns/promises'
import { fstatSync } from 'node:fs'
import { isIP, isIPv4, isIPv6 } from 'node:net'
import { errnoOf, invalid, unsupported } from '../../errors.ts'
import type { SocketAddress } from '../schema/socket-address.ts'

export type Inet = Extract<SocketAddress, { type: 'inet' }>
export type Unix = Extract<SocketAddress, { type: 'unix' }>

export interface Endpoint {
  readonly host: string
  readonly port: number
  readonly family: 4 | 6
}

/** Bytes of a path in `struct sockaddr_un`. */
const maxPathLength = 108

/** Looks the name up. `fallback` is what an empty one stands for. */
export async function resolveInet(address: Inet, fallback = ''): Promise<Endpoint> {
  for (const name of ['keep-alive', 'mptcp'] as const) {
    if (address[name]) throw unsupported(`Parameter '${name}': not supported here`)
  }
  const family = familyOf(address)
  const host = address.host || fallback
  const fail = (reason: string) =>
    invalid(`address resolution failed for ${address.host}:${address.port}: ${reason}`)
  if (host === '' || address.port === '') throw fail('Name or service not known')
  if (!/^\d{1,5}$/.test(address.port) || Number(address.port) > 65535) {
    throw fail('Servname not supported for ai_socktype')
  }
  if ((family === 6 && isIPv4(host)) || (family === 4 && isIPv6(host))) {
    throw fail('Address family for hostname not supported')
  }
  if (address.numeric && isIP(host) === 0) throw fail('Name or service not known')
  try {
    const found = await lookup(host, { family })
    return {
      host: found.address,
      port: Number(address.port),
      family: isIPv6(found.address) ? 6 : 4,
    }
  } catch (error) {
    const temporary = errnoOf(error) === 'EAI_AGAIN'
    throw fail(temporary ? 'Temporary failure in name resolution' : 'Name or service not known')
  }
}

/** As QEMU reads two switches, of which each may be absent: 0 is either. */
function familyOf({ ipv4, ipv6 }: Inet): 0 | 4 | 6 {
  if (ipv4 === false && ipv6 === false) throw invalid('Cannot disable IPv4 and IPv6 at same time')
  if (ipv4 && ipv6) return 0
  if (ipv6 || ipv4 === false) return 6
  if (ipv4 || ipv6 === false) return 4
  return 0
}

/** An abstract name begins with a byte of 0; unless it is tight, zeroes fill it up, too. */
export function unixPath({ path, abstract = false, tight = true }: Unix): string {
  const length = Buffer.byteLength(path)
  if (length > (abstract ? maxPathLength - 1 : maxPathLength)) {
    throw invalid(`UNIX socket path '${path}' is too long`)
  }
  if (!abstract) return path
  return `\0${path}`.padEnd(tight ? 0 : maxPathLength, '\0')
}

/** A descriptor that was inherited. */
export function socketDescriptor(text: string): number {
  if (!/^-?\d{1,9}$/.test(text)) throw invalid(`Unable to parse FD number ${text}`)
  const fd = Number(text)
  try {
    if (fstatSync(fd).isSocket()) return fd
  } catch {}
  throw invalid(`File descriptor '${text}' is not a socket`)
}

/** As `query-chardev` shows it, without what it is used for. */
export function describeAddress(address: SocketAddress): string {
  switch (address.type) {
    case 'unix': {
      const { path, abstract = false, tight = true } = address
      return `unix:${path}${abstract ? `,abstract=on${tight ? ',tight=on' : ''}` : ''}`
    }
    case 'inet':
      return `${address.host}:${address.port}`
    case 'fd':
      return `fd:${address.str}`
    case 'vsock':
      return `vsock:${address.cid}:${address.port}`
  }
}
