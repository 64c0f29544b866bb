import { describe, expect, it } from 'vitest'
import { exportUrl } from './address.ts'
import { nbd } from './driver.ts'
import { parseNbdFilename } from './filename.ts'

const inet = (host: string, port: string) => ({ server: { type: 'inet', host, port } })
const unix = (path: string) => ({ server: { type: 'unix', path } })

describe('parseNbdFilename', () => {
  it.each([
    ['nbd://example.com/disk', { ...inet('example.com', '10809'), export: 'disk' }],
    ['nbd://example.com', inet('example.com', '10809')],
    ['nbd://example.com/', inet('example.com', '10809')],
    ['nbd://example.com:1234//disk', { ...inet('example.com', '1234'), export: '/disk' }],
    ['nbd+tcp://h/hello%20world', { ...inet('h', '10809'), export: 'hello world' }],
    ['nbd://[::1]:99/a/b', { ...inet('::1', '99'), export: 'a/b' }],
    ['nbd+unix:///?socket=/run/a.sock', unix('/run/a.sock')],
    ['nbd+unix:///x?socket=/run/a%20b', { ...unix('/run/a b'), export: 'x' }],
    ['nbd:localhost:10809', inet('localhost', '10809')],
    ['nbd:localhost:10809:exportname=a:b', { ...inet('localhost', '10809'), export: 'a:b' }],
    ['nbd:[::1]:10809', inet('::1', '10809')],
    ['nbd:unix:/run/x', unix('/run/x')],
    ['nbd:unix:/run/x:exportname=e', { ...unix('/run/x'), export: 'e' }],
  ])('reads %s', (name, options) => {
    expect(parseNbdFilename(name)).toEqual(options)
  })

  it.each(['a.qcow2', 'nbds://host/', 'http://nbd/', 'nbdx:foo'])('leaves %s to others', (name) => {
    expect(parseNbdFilename(name)).toBeUndefined()
  })

  it.each([
    ['nbd+unix:///', 'No valid URL specified'],
    ['nbd+unix://host/?socket=/x', 'No valid URL specified'],
    ['nbd+unix:///?socket=/x&foo=bar', 'No valid URL specified'],
    ['nbd://localhost:99999/', 'No valid URL specified'],
    ['nbd://localhost/?foo=1', 'No valid URL specified'],
    ['nbd://localhost/%zz', 'No valid URL specified'],
    ['nbd:foo', "error parsing address 'foo'"],
    ['nbd:', 'NBD server address missing'],
  ])('refuses %s', (name, message) => {
    expect(() => parseNbdFilename(name)).toThrow(message)
  })
})

describe('exportUrl', () => {
  it.each([
    'nbd://example.com:10809/disk',
    'nbd://[::1]:99/a/b',
    'nbd+unix://?socket=/run/a.sock',
    'nbd+unix:///hello%20w%2Brld?socket=/run/a%20b',
  ])('gives back %s', (url) => {
    const { address, exportName } = nbd.parse(parseNbdFilename(url)!) as never
    expect(exportUrl(address, exportName)).toBe(url)
  })
})

describe('options of driver nbd', () => {
  it('takes the older flat form', () => {
    expect(nbd.parse({ driver: 'nbd', host: 'h', export: 'x' })).toMatchObject({
      address: { type: 'inet', host: 'h', port: 10809 },
      exportName: 'x',
    })
  })

  it.each([
    [{}, 'NBD server address missing'],
    [{ path: '/x', host: 'y' }, 'path and host may not be used at the same time'],
    [{ server: { type: 'unix' } }, "Parameter 'path' is missing"],
    [{ server: { type: 'foo' } }, "Parameter 'type' does not accept value 'foo'"],
    [{ server: { type: 'inet', host: 'h' } }, "Parameter 'port' is missing"],
    [{ server: { type: 'inet', host: 'h', port: 'abc' } }, 'address resolution failed for h:abc'],
    [{ server: { type: 'fd', str: '3' } }, "an NBD server of type 'fd' is not supported"],
    [{ path: '/x', 'x-dirty-bitmap': 'b'.repeat(4097) }, 'x-dirty-bitmap'],
    [{ path: '/x', 'reconnect-delay': -1 }, "Parameter 'reconnect-delay'"],
    [{ path: '/x', nonsense: 1 }, "Parameter 'nonsense' is unexpected"],
    [{ path: '/x', export: 'a'.repeat(4097) }, 'export name too long to send to server'],
  ])('refuses %j', (options, message) => {
    expect(() => nbd.parse({ driver: 'nbd', ...options })).toThrow(message)
  })
})
