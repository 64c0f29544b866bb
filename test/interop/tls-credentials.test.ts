/**
 * Credentials are loaded, judged and refused in the words of Debian's qemu-img, whose every way of
 * objecting to a certificate or key file is tried; and random pairs of faults, for the order.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import {
  type CertificateWish,
  certificate,
  keyPem,
  makePki,
  newKey,
  type Pki,
  reissue,
  reissueAuthority,
  revocations,
} from '../support/certificates.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, seedNote } from '../support/random.ts'

/** Under VARVE_LONG=1 the random part is long. */
const rounds = process.env.VARVE_LONG === '1' ? 100 : 10

const qemuImg = peer('qemu-img')
const pair = new Pair()
afterAll(() => pair[Symbol.dispose]())

interface Case {
  readonly change?: (pki: Pki) => void
  /** Behind `tls-creds-x509,id=t,dir=pki,endpoint=…`. */
  readonly options?: string
  /** Further objects, before it. */
  readonly objects?: readonly string[]
}

const roles = ['server', 'client'] as const

/** Runs both programs on the same folder, for either endpoint. */
async function sameAnswers({ change, options = '', objects = [] }: Case): Promise<string[]> {
  rmSync(join(pair.ours, 'pki'), { recursive: true, force: true })
  const pki = makePki(join(pair.ours, 'pki'))
  change?.(pki)
  rmSync(join(pair.theirs, 'pki'), { recursive: true, force: true })
  cpSync(pki.folder, join(pair.theirs, 'pki'), { recursive: true })
  for (const folder of [pair.ours, pair.theirs]) writeFileSync(join(folder, 'd.raw'), 'x')
  const answers: string[] = []
  for (const role of roles) {
    const own = `tls-creds-x509,id=t,dir=pki,endpoint=${role}${options}`
    const args = ['info', ...[...objects, own].flatMap((each) => ['--object', each])]
    const ours = await runOurs(pair.ours, [...args, '-f', 'raw', 'd.raw'])
    const theirs = await runTheirs(pair.theirs, [...args, '-f', 'raw', 'd.raw'])
    expect({ role, ...ours, stdout: '' }).toEqual({ role, ...theirs, stdout: '' })
    answers.push(theirs.stderr)
  }
  return answers
}

const own = (changes: Partial<CertificateWish>): Case => ({
  change: (pki) => {
    for (const role of roles) reissue(pki, role, changes)
  },
})
const authority = (changes: Partial<CertificateWish>): Case => ({
  change: (pki) => reissueAuthority(pki, changes),
})
const stranger = { name: [['CN', 'a stranger']] as const, key: newKey() }

const certificates: Readonly<Record<string, Case>> = {
  'nothing wrong': {},
  'expired authority': authority({ from: -3, to: -1 }),
  'future authority': authority({ from: 1, to: 3 }),
  'authority without constraints': authority({ ca: undefined }),
  'authority that is none': authority({ ca: false }),
  'authority that may not sign': authority({ keyUsage: ['digitalSignature'] }),
  'authority that had better not sign': authority({
    keyUsage: ['digitalSignature'],
    keyUsageCritical: false,
  }),
  'authority that may sign': authority({ keyUsage: ['keyCertSign', 'cRLSign'] }),
  'authority for servers only': authority({ purposes: ['server'], purposesCritical: true }),
  expired: own({ from: -3, to: -1 }),
  future: own({ from: 1, to: 3 }),
  'without constraints': own({ ca: undefined }),
  "an authority's": own({ ca: true }),
  'may only sign certificates': own({ keyUsage: ['keyCertSign'] }),
  'had better only sign certificates': own({ keyUsage: ['keyCertSign'], keyUsageCritical: false }),
  'may sign': own({ keyUsage: ['digitalSignature'] }),
  'may encipher': own({ keyUsage: ['keyEncipherment'] }),
  'may do both': own({ keyUsage: ['keyEncipherment', 'digitalSignature'] }),
  'RSA, may sign': own({ key: newKey('rsa'), keyUsage: ['digitalSignature'] }),
  'RSA, may encipher': own({ key: newKey('rsa'), keyUsage: ['keyEncipherment'] }),
  'for servers': own({ purposes: ['server'] }),
  'for servers alone': own({ purposes: ['server'], purposesCritical: true }),
  'for clients alone': own({ purposes: ['client'], purposesCritical: true }),
  'for both': own({ purposes: ['client', 'server'], purposesCritical: true }),
  'for anything': own({ purposes: ['any'], purposesCritical: true }),
  'for code alone': own({ purposes: ['code'], purposesCritical: true }),
  'for code and anything': own({ purposes: ['code', 'any'], purposesCritical: true }),
  'by a forger': own({ issuer: { name: [['CN', 'varve test authority']], key: newKey() } }),
  'by a stranger': own({ issuer: stranger }),
}

qemuImg.describe('certificates', () => {
  it.each(Object.keys(certificates))('%s', async (name) => {
    await sameAnswers(certificates[name])
  })

  it.each(['expired', 'by a stranger', 'expired authority'])('%s, unjudged', async (name) => {
    await sameAnswers({ ...certificates[name], options: ',sanity-check=off' })
  })
})

const files = ['ca-cert', 'server-cert', 'server-key', 'client-cert', 'client-key']
const extra = ['ca-crl', 'dh-params']

const replaced =
  (name: string, text: string) =>
  ({ at }: Pki) => {
    writeFileSync(at(`${name}.pem`), text)
  }
const removed =
  (name: string) =>
  ({ at }: Pki) =>
    rmSync(at(`${name}.pem`), { force: true })
const folderAt =
  (name: string) =>
  ({ at }: Pki) => {
    rmSync(at(`${name}.pem`), { force: true })
    mkdirSync(at(`${name}.pem`))
  }
const eachRole = (change: (pki: Pki, role: 'server' | 'client') => void) => (pki: Pki) => {
  for (const role of roles) change(pki, role)
}
const enciphered = eachRole((pki, role) => {
  const key = newKey()
  reissue(pki, role, { key })
  writeFileSync(pki.at(`${role}-key.pem`), keyPem(key, 'secret'))
})
const secret = (data: string) => [`secret,id=s,data=${data}`]

const fileCases: Readonly<Record<string, Case>> = {
  ...Object.fromEntries(files.map((name) => [`no ${name}`, { change: removed(name) }])),
  ...Object.fromEntries(
    [...files, ...extra].flatMap((name) => [
      [`empty ${name}`, { change: replaced(name, '') }],
      [`garbage in ${name}`, { change: replaced(name, 'garbage') }],
      [`a folder for ${name}`, { change: folderAt(name) }],
    ]),
  ),
  'half a certificate': {
    change: eachRole(({ at }, role) => {
      const text = readFileSync(at(`${role}-cert.pem`), 'utf8')
      writeFileSync(at(`${role}-cert.pem`), text.slice(0, 300))
    }),
  },
  "another's key": {
    change: eachRole(({ at }, role) => writeFileSync(at(`${role}-key.pem`), keyPem(newKey()))),
  },
  'a key without its passphrase': { change: enciphered },
  'a key and its passphrase': {
    change: enciphered,
    options: ',passwordid=s',
    objects: secret('secret'),
  },
  'a key and a wrong passphrase': {
    change: enciphered,
    options: ',passwordid=s',
    objects: secret('wrong'),
  },
  'a passphrase that is not there': { change: enciphered, options: ',passwordid=q' },
  'a passphrase for nothing': { options: ',passwordid=s', objects: secret('x') },
  'a passphrase that is none': {
    options: ',passwordid=z',
    objects: ['authz-simple,id=z,identity=x'],
  },
  'revocations of the client': {
    change: ({ authority, at }) => {
      const taken = readFileSync(at('client-cert.pem'), 'utf8')
      writeFileSync(at('ca-crl.pem'), revocations(authority, [taken]))
    },
  },
  'two authorities, the first one expired': {
    change: ({ at }) => {
      const old = certificate({ subject: [['CN', 'o']], key: newKey(), ca: true, from: -3, to: -1 })
      writeFileSync(at('ca-cert.pem'), old + readFileSync(at('ca-cert.pem'), 'utf8'))
    },
  },
  'two authorities': {
    change: ({ at }) => {
      const other = certificate({ subject: [['CN', 'o']], key: newKey(), ca: true })
      writeFileSync(at('ca-cert.pem'), other + readFileSync(at('ca-cert.pem'), 'utf8'))
    },
  },
}

qemuImg.describe('files', () => {
  it.each(Object.keys(fileCases))('%s', async (name) => {
    await sameAnswers(fileCases[name])
  })
})

const faults: readonly ((pki: Pki) => void)[] = [
  ...files.flatMap((name) => [removed(name), replaced(name, 'garbage')]),
  ...extra.map((name) => replaced(name, 'garbage')),
  ...[certificates.expired, certificates["an authority's"], certificates['by a stranger']].map(
    ({ change }) => change as (pki: Pki) => void,
  ),
  ...[certificates['expired authority'], certificates['authority that is none']].map(
    ({ change }) => change as (pki: Pki) => void,
  ),
]

qemuImg.it(`two faults: the same one is told ${seedNote}`, async () => {
  const random = new Random()
  for (let round = 0; round < rounds; round++) {
    const chosen = [random.pick(faults), random.pick(faults)]
    const options = random.pick(['', '', ',sanity-check=off', ',passwordid=q'])
    await sameAnswers({ change: (pki) => chosen.forEach((each) => void each(pki)), options })
  }
})

const objects: readonly string[] = [
  ...['tls-creds-x509,id=t', 'tls-creds-psk,id=t', 'tls-creds-anon,id=t'].flatMap((start) => [
    start,
    `${start},endpoint=server`,
    `${start},endpoint=both`,
    `${start},verify-peer=maybe`,
    `${start},bogus=1`,
    `${start},dir=/nonexistent`,
    `${start},dir=/nonexistent,endpoint=server`,
  ]),
  'tls-creds-x509,dir=/nonexistent',
  'tls-creds-x509,id=1,dir=/nonexistent',
  'tls-creds-psk,id=t,username=x,endpoint=server',
  'tls-creds-psk,id=t,username=x,endpoint=server,dir=/nonexistent',
  'tls-creds-psk,id=t,dir=keys',
  'tls-creds-psk,id=t,dir=keys,endpoint=server',
  'tls-creds-psk,id=t,dir=keys,username=alice',
  'tls-creds-psk,id=t,dir=keys,username=nobody',
  'tls-creds-psk,id=t,dir=keys,username=odd',
  'tls-creds-psk,id=t,dir=keys,username=word',
  'tls-creds-psk,id=t,dir=keys,username=none',
  'tls-creds-psk,id=t,dir=keys,username=space',
  'tls-creds-psk,id=t,dir=keys,username=twice',
  'tls-creds-psk,id=t,dir=keys,username=three',
  'tls-creds-psk,id=t,dir=keys,username=four',
  'tls-creds-psk,id=t,dir=keys,username=',
  'authz-simple,id=z',
  'authz-simple,id=z,identity=x',
  'authz-simple,id=z,identity=x,policy=deny',
  'authz-list,id=z',
  'authz-list,id=z,policy=maybe',
  'authz-list,id=z,policy=allow',
  'authz-list,id=z,rules.0.match=x',
  'authz-list,id=z,rules.0.policy=allow',
  'authz-list,id=z,rules.0.match=x,rules.0.policy=maybe',
  'authz-list,id=z,rules.0.match=x,rules.0.policy=allow,rules.0.format=regex',
  'authz-list,id=z,rules.0.match=x,rules.0.policy=allow,rules.0.bogus=1',
  'authz-list,id=z,rules.1.match=x,rules.1.policy=allow',
  'authz-list,id=z,rules=x',
  'authz-list,id=z,rules.0.match=x,rules.0.policy=allow,rules.0.format=glob',
  '{"qom-type":"authz-list","id":"z","rules":[{"match":"x","policy":"allow"}]}',
  '{"qom-type":"authz-list","id":"z","rules":[{"match":1,"policy":"allow"}]}',
  '{"qom-type":"authz-list","id":"z","rules":[1]}',
  '{"qom-type":"authz-list","id":"z","rules":1}',
  'authz-listfile,id=z,filename=x',
  'authz-pam,id=z,service=x',
]

qemuImg.describe('options', () => {
  it.each(objects)('%s', async (object) => {
    for (const folder of [pair.ours, pair.theirs]) {
      writeFileSync(join(folder, 'd.raw'), 'x')
      mkdirSync(join(folder, 'keys'), { recursive: true })
      const key = '00112233445566778899aabbccddeeff'
      const lines = ['# users', `qemu:${key}`, `alice:${key}`, `odd:${key}a`, 'word:hello', 'none:']
      const more = [
        `space:${key} `,
        ` space2:${key}`,
        'twice:aabb',
        `twice:${key}`,
        'three:aabbcc',
        'four:aabbccdd',
      ]
      writeFileSync(join(folder, 'keys', 'keys.psk'), [...lines, ...more].join('\n'))
    }
    const args = ['info', '--object', object, '-f', 'raw', 'd.raw']
    const ours = await runOurs(pair.ours, args)
    const theirs = await runTheirs(pair.theirs, args)
    expect({ ...ours, stdout: '' }).toEqual({ ...theirs, stdout: '' })
  })
})

it('has tried what it means to', async () => {
  if (!qemuImg.path) return
  const [server, client] = await sameAnswers(certificates['for servers alone'])
  expect(server).toBe('')
  expect(client).toMatch(/purpose does not allow use with a TLS client/)
})
