/**
 * Sessions of every kind of credentials between varve and Debian's QEMU, in both directions: who is
 * let in by qemu-nbd is let in by varve nbd, who trusts it trusts us, and the reasons are the same.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, expect, it } from 'vitest'
import { run } from '../../src/cli/nbd.ts'
import { peer } from '../peers.ts'
import {
  certificate,
  keyPem,
  makePki,
  newKey,
  type Pki,
  reissue,
  revocations,
} from '../support/certificates.ts'
import { runCommand } from '../support/cli.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'

const qemu = peer('qemu-nbd', 'qemu-img')
const folder = scratchFolder('tls-sessions')
const at = (name: string) => join(folder, name)
let count = 0

interface Serving {
  readonly socket: string
  /** Ends it; resolves to what it said. */
  stop(): Promise<string[]>
}

type Serve = (args: readonly string[]) => Promise<Serving>

const serveOurs: Serve = async (args) => {
  const socket = at(`ours-${count++}`)
  const stopping = new AbortController()
  const all = ['-t', '-e', '0', '-k', socket, '-f', 'raw', ...args, at('d.raw')]
  const ended = runCommand(run, all, { signal: stopping.signal })
  await there(socket)
  return {
    socket,
    async stop() {
      stopping.abort()
      return linesOf((await ended).stderr)
    },
  }
}

const serveTheirs: Serve = async (args) => {
  const socket = at(`theirs-${count++}`)
  const all = ['-t', '-e', '0', '-k', socket, '-f', 'raw', ...args, at('d.raw')]
  const child = spawn('qemu-nbd', all, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  const ended = once(child, 'close')
  await there(socket)
  return {
    socket,
    async stop() {
      child.kill()
      await ended
      return linesOf(said)
    },
  }
}

async function there(socket: string): Promise<void> {
  for (let tries = 0; !existsSync(socket); tries++) {
    if (tries === 1000) throw new Error(`${socket} did not appear`)
    await sleep(10)
  }
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.replace('varve-nbd', 'qemu-nbd'))
}

type Client = typeof runOurs

async function outcomeOf(client: Client, { socket }: Serving, { objects, hostname }: ClientWish) {
  const named = hostname === undefined ? '' : `,file.tls-hostname=${hostname}`
  const tls = objects.length > 0 ? `,file.tls-creds=c${named}` : ''
  const unix = `file.driver=nbd,file.server.type=unix,file.server.path=${socket}`
  const args = ['info', ...objectArgs(objects), '--image-opts', `driver=raw,${unix}${tls}`]
  const { status, stderr } = await client(folder, args)
  return { status, stderr: stderr.replace(/Could not open '.*?': /, '') }
}

function objectArgs(objects: readonly string[]): string[] {
  return objects.flatMap((object) => ['--object', object])
}

interface ClientWish {
  readonly objects: readonly string[]
  readonly hostname?: string
}

interface Case extends ClientWish {
  readonly server: readonly string[]
  readonly authz?: boolean
}

const x509 = (id: string, endpoint: string, directory: string, more = '') =>
  `tls-creds-x509,id=${id},endpoint=${endpoint},dir=${at(directory)}${more}`
const psk = (id: string, endpoint: string, directory: string, more = '') =>
  `tls-creds-psk,id=${id},endpoint=${endpoint},dir=${at(directory)}${more}`
const server = (directory = 'pki', more = '') => [x509('s', 'server', directory, more)]
const client = (directory = 'pki', more = '') => [x509('c', 'client', directory, more)]
const pskServer = [psk('s', 'server', 'keys')]
const anonymous = (id: string, endpoint: string) => [`tls-creds-anon,id=${id},endpoint=${endpoint}`]
const unjudged = ',sanity-check=off'
const hostname = 'localhost'
const list = (...rules: object[]) => JSON.stringify({ 'qom-type': 'authz-list', id: 'z', rules })

const cases: Readonly<Record<string, Case>> = {
  certificates: { server: server(), objects: client(), hostname },
  'certificates, by address': { server: server(), objects: client(), hostname: '127.0.0.1' },
  'RSA certificates': { server: server('rsa'), objects: client('rsa'), hostname },
  'a chain of authorities': { server: server('chain'), objects: client('chain'), hostname },
  'a key with a passphrase': {
    server: ['secret,id=p,data=secret', ...server('enciphered', ',passwordid=p')],
    objects: ['secret,id=p,data=secret', ...client('enciphered', ',passwordid=p')],
    hostname,
  },
  'TLS 1.2 alone': {
    server: server('pki', ',priority=NORMAL:-VERS-TLS1.3'),
    objects: client(),
    hostname,
  },
  'TLS 1.2 alone, of the client': {
    server: server(),
    objects: client('pki', ',priority=NORMAL:-VERS-TLS1.3'),
    hostname,
  },
  'one cipher alone': {
    server: server('pki', ',priority=NORMAL:-CIPHER-ALL:+AES-128-GCM'),
    objects: client(),
    hostname,
  },
  'one cipher alone, of the client': {
    server: server(),
    objects: client('pki', ',priority=NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305'),
    hostname,
  },
  'ciphers that do not meet': {
    server: server('pki', ',priority=NORMAL:-CIPHER-ALL:+AES-128-GCM'),
    objects: client('pki', ',priority=NORMAL:-CIPHER-ALL:+AES-256-GCM'),
    hostname,
  },
  'one group alone': {
    server: server('pki', ',priority=NORMAL:-GROUP-ALL:+GROUP-SECP256R1'),
    objects: client('pki', ',priority=NORMAL:-GROUP-ALL:+GROUP-SECP256R1:+GROUP-X25519'),
    hostname,
  },
  'groups that do not meet': {
    server: server('pki', ',priority=NORMAL:-GROUP-ALL:+GROUP-SECP384R1'),
    objects: client('pki', ',priority=NORMAL:-GROUP-ALL:+GROUP-SECP256R1'),
    hostname,
  },
  'an exchange by RSA': {
    server: server('rsa', ',priority=NORMAL:-VERS-TLS1.3:-KX-ALL:+RSA'),
    objects: client('rsa'),
    hostname,
  },
  'exchanges that do not meet': {
    server: server('rsa', ',priority=NORMAL:-VERS-TLS1.3:-KX-ALL:+RSA'),
    objects: client('rsa', ',priority=NORMAL:-VERS-TLS1.3:-RSA'),
    hostname,
  },
  'a cipher with SHA-1': {
    server: server('pki', ',priority=NORMAL:-VERS-TLS1.3:-CIPHER-ALL:+AES-256-CBC:-MAC-ALL:+SHA1'),
    objects: client(),
    hostname,
  },
  'nobody is named': { server: server(), objects: client() },
  'somebody else is named': { server: server(), objects: client(), hostname: 'example.org' },
  'another address is named': { server: server(), objects: client(), hostname: '127.0.0.2' },
  'a client without a certificate': { server: server(), objects: client('bare'), hostname },
  'a client without one, which is allowed': {
    server: server('pki', ',verify-peer=off'),
    objects: client('bare'),
    hostname,
  },
  'a client with a foreign one, which is allowed': {
    server: server('pki', ',verify-peer=off'),
    objects: client('foreign', unjudged),
    hostname,
  },
  'a client of another authority': {
    server: server(),
    objects: client('foreign', unjudged),
    hostname,
  },
  // It asks for no certificate, or whoever is first to refuse the other would be a matter of luck.
  'a server of another authority': {
    server: server('other', ',verify-peer=off'),
    objects: client(),
    hostname,
  },
  'a server of another authority, which is trusted': {
    server: server('other', ',verify-peer=off'),
    objects: client('pki', ',verify-peer=off'),
  },
  'an expired client': { server: server(), objects: client('expired', unjudged), hostname },
  'an expired server': { server: server('expired', unjudged), objects: client(), hostname },
  'a client of tomorrow': { server: server(), objects: client('future', unjudged), hostname },
  'a server of tomorrow': { server: server('future', unjudged), objects: client(), hostname },
  'a revoked client': { server: server('revoking'), objects: client(), hostname },
  'a client that is not revoked': {
    server: server('revoking-others'),
    objects: client(),
    hostname,
  },
  'a client that wants no TLS': { server: server(), objects: [] },
  'a server without TLS': { server: [], objects: client(), hostname },
  keys: { server: pskServer, objects: [psk('c', 'client', 'keys')] },
  'keys of another user': {
    server: pskServer,
    objects: [psk('c', 'client', 'keys', ',username=alice')],
  },
  'keys over TLS 1.2': {
    server: pskServer,
    objects: [psk('c', 'client', 'keys', ',priority=NORMAL:-VERS-TLS1.3')],
  },
  'keys with one cipher alone': {
    server: [psk('s', 'server', 'keys', ',priority=NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305')],
    objects: [psk('c', 'client', 'keys')],
  },
  'keys with ciphers that do not meet': {
    server: [psk('s', 'server', 'keys', ',priority=NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305')],
    objects: [psk('c', 'client', 'keys', ',priority=NORMAL:-CIPHER-ALL:+AES-128-GCM')],
  },
  'keys, and a name that means nothing': {
    server: pskServer,
    objects: [psk('c', 'client', 'keys')],
    hostname,
  },
  'a wrong key': { server: pskServer, objects: [psk('c', 'client', 'wrong-keys')] },
  'a wrong key over TLS 1.2': {
    server: pskServer,
    objects: [psk('c', 'client', 'wrong-keys', ',priority=NORMAL:-VERS-TLS1.3')],
  },
  'an unknown user': {
    server: pskServer,
    objects: [psk('c', 'client', 'wrong-keys', ',username=bob')],
  },
  'keys against certificates': { server: server(), objects: [psk('c', 'client', 'keys')] },
  'certificates against keys': { server: pskServer, objects: client(), hostname },
  anonymous: { server: anonymous('s', 'server'), objects: anonymous('c', 'client') },
  'anonymous, with ciphers that do not meet': {
    server: [`${anonymous('s', 'server')},priority=NORMAL:-CIPHER-ALL:+AES-128-GCM`],
    objects: [`${anonymous('c', 'client')},priority=NORMAL:-CIPHER-ALL:+AES-256-GCM`],
  },
  'anonymous against certificates': { server: server(), objects: anonymous('c', 'client') },
  'certificates against anonymous': {
    server: anonymous('s', 'server'),
    objects: client(),
    hostname,
  },
  'an authorized name': authorized(
    `authz-simple,id=z,identity=${nameOf('client').replaceAll(',', ',,')}`,
  ),
  'another name': authorized('authz-simple,id=z,identity=CN=the client'),
  'a list without rules': authorized('authz-list,id=z'),
  'a list that allows': authorized('authz-list,id=z,policy=allow'),
  'a rule that allows': authorized(list({ match: nameOf('client'), policy: 'allow' })),
  'a rule that denies': authorized(
    list(
      { match: 'C=CH*', policy: 'deny', format: 'glob' },
      { match: '*', policy: 'allow', format: 'glob' },
    ),
  ),
  'a pattern that is none': authorized(list({ match: 'C=CH*', policy: 'allow' })),
  'an authorization that is none': authorized('secret,id=z,data=x'),
  'an authorization that is not there': authorized('authz-simple,id=y,identity=x'),
}

function nameOf(role: string): string {
  return `C=CH,O=varve,CN=the ${role}`
}

function authorized(object: string): Case {
  return { server: [...server(), object], authz: true, objects: client(), hostname }
}

beforeAll(() => {
  writeFileSync(at('d.raw'), Buffer.alloc(65536))
  const pki = makePki(at('pki'))
  const copy = (name: string): Pki => {
    cpSync(pki.folder, at(name), { recursive: true })
    return { ...pki, folder: at(name), at: (file) => join(folder, name, file) }
  }
  const other = makePki(at('other'))
  const bare = copy('bare')
  rmSync(bare.at('client-cert.pem'))
  const foreign = copy('foreign')
  for (const part of ['cert', 'key']) {
    cpSync(other.at(`client-${part}.pem`), foreign.at(`client-${part}.pem`))
  }
  const expired = copy('expired')
  const future = copy('future')
  for (const role of ['server', 'client'] as const) {
    reissue(expired, role, { from: -3, to: -1 })
    reissue(future, role, { from: 1, to: 3 })
  }
  const rsa = copy('rsa')
  for (const role of ['server', 'client'] as const) reissue(rsa, role, { key: newKey('rsa') })
  makeChain(copy('chain'))
  const enciphered = copy('enciphered')
  for (const role of ['server', 'client'] as const) {
    const key = newKey()
    reissue(enciphered, role, { key })
    writeFileSync(enciphered.at(`${role}-key.pem`), keyPem(key, 'secret'))
  }
  const read = (file: string) => readFileSync(file, 'utf8')
  const revoke = (name: string, file: string) =>
    writeFileSync(copy(name).at('ca-crl.pem'), revocations(pki.authority, [read(pki.at(file))]))
  revoke('revoking', 'client-cert.pem')
  revoke('revoking-others', 'server-cert.pem')
  const key = '00112233445566778899aabbccddeeff'
  for (const [name, lines] of [
    ['keys', `alice:${key}${key}\nqemu:${key}\n`],
    ['wrong-keys', `qemu:ff${key}\nbob:${key}\n`],
  ]) {
    mkdirSync(at(name))
    writeFileSync(join(at(name), 'keys.psk'), lines)
  }
})

/** The authority signs another one, which signs server and client; both are in `ca-cert.pem`. */
function makeChain(pki: Pki): void {
  const middle = { name: [['CN', 'in the middle']] as const, key: newKey() }
  const own = certificate({
    subject: middle.name,
    key: middle.key,
    issuer: pki.authority,
    ca: true,
  })
  writeFileSync(pki.at('ca-cert.pem'), own + readFileSync(pki.at('ca-cert.pem'), 'utf8'))
  for (const role of ['server', 'client'] as const) reissue(pki, role, { issuer: middle })
}

/** A client that is refused may hear of it when it writes, or when it reads. */
const vague = /^(?:qemu-img: )(?:Failed to|TLS handshake failed).*/s

function seen({ status, stderr }: { status: number; stderr: string }) {
  return { status, stderr: stderr.replace(vague, 'refused') }
}

/** What a server says when a client leaves it is a matter of when it notices. */
const leaving = /Failed to read opts magic|TLS handshake failed/

qemu.describe('sessions', () => {
  it.each(Object.keys(cases))('%s', async (name) => {
    const { server: objects, authz, ...wish } = cases[name]
    const credentials = objects.some((object) => /^tls-creds|"tls-creds/.test(object))
    const args = [
      ...objectArgs(objects),
      ...(credentials ? ['--tls-creds', 's'] : []),
      ...(authz ? ['--tls-authz', 'z'] : []),
    ]
    const servers = [await serveTheirs(args), await serveOurs(args)]
    const outcomes = []
    for (const each of servers) {
      outcomes.push(await outcomeOf(runTheirs, each, wish), await outcomeOf(runOurs, each, wish))
    }
    const said = [await servers[0].stop(), await servers[1].stop()]
    if (process.env.VARVE_SHOW) console.log(name, outcomes, said)
    const [expected, ...others] = outcomes.map(seen)
    for (const outcome of others) expect(outcome).toEqual(expected)
    const [theirs, ours] = said.map((lines) => lines.filter((line) => !leaving.test(line)))
    expect(ours).toEqual(theirs)
  })
})
