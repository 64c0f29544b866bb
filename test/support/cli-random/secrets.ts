/** `--object secret,…`: the key that encrypted images of the world want, named and written in all ways. */
import { createCipheriv } from 'node:crypto'
import type { Random } from '../random.ts'

/** As option strings want it. */
export const escaped = (text: string) => text.replaceAll(',', ',,')

const password = 'geheim'
const master = Buffer.alloc(32, 0x5a)
const vector = Buffer.alloc(16, 0xa5)

const base64 = (bytes: Buffer) => bytes.toString('base64')

function enciphered(): string {
  const cipher = createCipheriv('aes-256-cbc', master, vector)
  return base64(Buffer.concat([cipher.update(password), cipher.final()]))
}

const masterObject = `secret,id=m,data=${base64(master)},format=base64`
const iv = `iv=${base64(vector)}`

const sound: readonly (readonly string[])[] = [
  [`secret,id=k,data=${password}`],
  [`secret,id=k,data=${password},format=raw`],
  ['secret,id=k,file=key'],
  ['secret,id=k,file=key64,format=base64'],
  [`secret,id=k,data=${base64(Buffer.from(password))},format=base64`],
  [`secret,data=${password},id=k`],
  [`{"qom-type":"secret","id":"k","data":"${password}"}`],
  [masterObject, `secret,id=k,keyid=m,${iv},data=${enciphered()},format=base64`],
]

const wrong: readonly (readonly string[])[] = [
  ['secret,id=k,data=falsch'],
  ['secret,id=k,data='],
  ['secret,id=k,file=text'],
  ['secret,id=k,file=nosuch'],
  ['secret,id=k,file=key,format=base64'],
  [`secret,id=k,data=${password},file=key`],
  [`secret,id=k,data=${password}`, 'secret,id=k,file=key'],
  ['secret,id=k,keyid=m,data=x'],
  [masterObject, `secret,id=k,keyid=m,data=${enciphered()},format=base64`],
  [masterObject, `secret,id=k,keyid=m,${iv},data=${enciphered()}`],
  [masterObject, `secret,id=k,keyid=m,iv=AAAA,data=${enciphered()},format=base64`],
  [masterObject, `secret,id=k,keyid=m,${iv},data=AAAA,format=base64`],
  [`secret,id=k,data=${password},format=hex`],
]

/** The words that give it. */
export function secretWords(random: Random): string[] {
  const objects = random.pick(random.chance(0.85) ? sound : wrong)
  return objects.flatMap((object) =>
    random.chance(0.85) ? ['--object', object] : [`--object=${object}`],
  )
}
