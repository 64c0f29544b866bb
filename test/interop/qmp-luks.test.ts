/** Encrypted images over QMP: `varve daemon` and the real storage daemon answer alike. */
import { copyFileSync, mkdirSync } from 'node:fs'
import { expect, vi } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

vi.setConfig({ testTimeout: 60_000 })

const qemu = peer('qemu-img', 'qemu-storage-daemon')

const secret = (id: string, data: string) => ({
  execute: 'object-add',
  arguments: { 'qom-type': 'secret', id, data },
})
const add = (node: string, options: Message, filename: string) => ({
  execute: 'blockdev-add',
  arguments: { 'node-name': node, ...options, file: { driver: 'file', filename } },
})
const amend = (id: string, node: string, options: Message, force?: boolean) => ({
  execute: 'x-blockdev-amend',
  arguments: { 'job-id': id, 'node-name': node, options, force },
})

/** Jobs that make a key slot take QEMU's own time; these fail, or only erase. */
const amendments = [
  amend('j0', 'l', { driver: 'luks', state: 'inactive', keyslot: 5 }),
  amend('j1', 'l', { driver: 'luks', state: 'active' }),
  amend('j1b', 'l', { driver: 'luks', state: 'active', 'new-secret': 's', secret: 'w' }),
  amend('j1c', 'l', { driver: 'luks', state: 'active', 'new-secret': 's', secret: 'nope' }),
  amend('j2', 'l', { driver: 'luks', state: 'inactive', 'old-secret': 'w' }),
  amend('j3', 'l', { driver: 'luks', state: 'inactive', 'old-secret': 's' }),
  amend('j4', 'l', { driver: 'luks', state: 'inactive', 'old-secret': 'x' }),
  amend('j5', 'q', { driver: 'qcow2' }),
  amend('j6', 'q', { driver: 'qcow2', encrypt: { format: 'qcow' } }),
  amend('j7', 'q', { driver: 'qcow2', encrypt: { format: 'luks', state: 'inactive', keyslot: 0 } }),
  amend(
    'j8',
    'q',
    { driver: 'qcow2', encrypt: { format: 'luks', state: 'inactive', keyslot: 0 } },
    true,
  ),
]

const refused = [
  amend('r1', 'l', { driver: 'qcow2' }),
  amend('r2', 'nope', { driver: 'luks', state: 'inactive' }),
  amend('r3', 'f', { driver: 'file' }),
  amend('j1', 'l', { driver: 'luks', state: 'inactive', keyslot: 0 }),
  add('x', { driver: 'luks', 'key-secret': 'w' }, 'l2'),
  add('x', { driver: 'luks', 'key-secret': 'nope' }, 'l2'),
  add('x', { driver: 'luks' }, 'l2'),
  add('x', { driver: 'qcow2' }, 'q2'),
  add('x', { driver: 'qcow2', encrypt: { format: 'aes', 'key-secret': 's' } }, 'q2'),
  { execute: 'object-del', arguments: { id: 'nope' } },
  secret('s', 'again'),
]

qemu.describe('encrypted images over QMP', () => {
  const folder = scratchFolder('qmp-luks')

  qemu.it('are opened, amended and refused alike', async () => {
    const answers: unknown[] = []
    for (const [index, command] of [varveDaemon, ['qemu-storage-daemon']].entries()) {
      const own = `${folder}/${index}`
      mkdirSync(own)
      await makeImages(own)
      await using talk = await QmpTalk.start(command, own)
      await talk.say({ execute: 'qmp_capabilities' })
      const heard: unknown[] = []
      const opening = [
        secret('s', 'open sesame'),
        secret('w', 'wrong'),
        {
          execute: 'blockdev-add',
          arguments: { driver: 'file', 'node-name': 'f', filename: 'l' },
        },
        { execute: 'blockdev-del', arguments: { 'node-name': 'f' } },
        add('l', { driver: 'luks', 'key-secret': 's' }, 'l'),
        add('q', { driver: 'qcow2', encrypt: { format: 'luks', 'key-secret': 's' } }, 'q'),
        {
          execute: 'blockdev-add',
          arguments: { driver: 'file', 'node-name': 'f', filename: 'g' },
        },
      ]
      for (const one of opening) heard.push((await talk.say(one)).replies)
      for (const one of amendments) {
        heard.push((await talk.say(one)).replies, await concluded(talk, one.arguments['job-id']))
      }
      for (const one of refused) heard.push((await talk.say(one)).replies)
      answers.push(heard)
    }
    expect(answers[0]).toEqual(answers[1])
  })

  async function makeImages(own: string): Promise<void> {
    const make = ['create', '-q', '--object', 'secret,id=s,data=open sesame', '-f']
    const keys = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10'
    for (const args of [
      [...make, 'luks', '-o', 'key-secret=s,iter-time=10', 'l', '1M'],
      [...make, 'qcow2', '-o', keys, 'q', '1M'],
      ['create', '-q', '-f', 'raw', 'g', '1M'],
    ]) {
      expect(await runOurs(own, args)).toMatchObject({ status: 0 })
    }
    for (const name of ['l', 'q']) copyFileSync(`${own}/${name}`, `${own}/${name}2`)
  }
})

/** What `query-jobs` says of a job when it is over. */
async function concluded(talk: QmpTalk, id: string): Promise<Message | undefined> {
  for (let attempt = 0; attempt < 500; attempt++) {
    const { replies } = await talk.say({ execute: 'query-jobs' })
    const jobs = replies[0].return as Message[]
    const job = jobs.find((each) => each.id === id)
    if (job?.status === 'concluded') return job
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return undefined
}
