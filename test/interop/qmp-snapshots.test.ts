/** Internal snapshots over QMP: `varve daemon` and the real storage daemon answer alike. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { varveDaemon } from '../support/qmp-talk.ts'

const qemu = peer('qemu-img', 'qemu-storage-daemon')

type Message = Readonly<Record<string, unknown>>

const take = (device: string, name: string) => ({
  execute: 'blockdev-snapshot-internal-sync',
  arguments: { device, name },
})
const drop = (device: string, which: Message) => ({
  execute: 'blockdev-snapshot-delete-internal-sync',
  arguments: { device, ...which },
})
const inTransaction = (...actions: Message[]) => ({
  execute: 'transaction',
  arguments: { actions },
})

const script: readonly unknown[] = [
  take('d0', 'one'),
  take('d0', 'one'),
  take('d0', '1'),
  take('d0', ''),
  take('d0', 'x'.repeat(300)),
  take('nope', 'x'),
  take('ro', 'x'),
  take('r0', 'x'),
  { execute: 'blockdev-snapshot-internal-sync', arguments: { device: 'd0' } },
  drop('d0', {}),
  drop('d0', { name: 'nope' }),
  drop('d0', { id: '9' }),
  drop('d0', { id: '9', name: 'one' }),
  drop('d0', { id: '1', name: 'two' }),
  drop('d0', { id: '1', name: 'one' }),
  drop('d0', { name: '1' }),
  drop('ro', { name: '1' }),
  drop('r0', { name: '1' }),
  drop('nope', { name: '1' }),
  take('below', 'x'),
  drop('below', { name: 'x' }),
  take('t0', 'through a filter'),
  drop('t0', { name: 'through a filter' }),
  inTransaction({ type: take('', '').execute, data: { device: 'd0', name: 'kept' } }),
  inTransaction(
    { type: take('', '').execute, data: { device: 'd0', name: 'undone' } },
    { type: take('', '').execute, data: { device: 'r0', name: 'fails' } },
  ),
]

const image = (node: string, driver: string, filename: string, readOnly = false) => ({
  execute: 'blockdev-add',
  arguments: {
    'node-name': node,
    driver,
    'read-only': readOnly,
    file: { driver: 'file', filename },
  },
})

qemu.describe('internal snapshots over QMP', () => {
  const folder = scratchFolder('qmp-snapshots')

  qemu.it('are taken, refused, deleted and taken back alike', async () => {
    const answers: Message[][] = []
    const names: string[] = []
    for (const command of [varveDaemon, ['qemu-storage-daemon']]) {
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/a.qcow2`, '1M')
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/b.qcow2`, '1M')
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/c.qcow2`, '1M')
      await qemu.run('create', '-q', '-f', 'raw', `${folder}/a.raw`, '1M')
      answers.push(await talk(command))
      names.push(await qemu.run('snapshot', '-l', `${folder}/a.qcow2`))
      await qemu.run('check', `${folder}/a.qcow2`)
    }
    expect(answers[0]).toEqual(answers[1])
    expect(names[0].match(/kept|undone|xxx/g)).toEqual(names[1].match(/kept|undone|xxx/g))
  })

  /** Replies, without times and with integers as they are. */
  async function talk([program, ...args]: readonly string[]): Promise<Message[]> {
    const monitor = ['--chardev', 'stdio,id=talk', '--monitor', 'talk']
    const child = spawn(program, [...args, ...monitor], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    let text = ''
    child.stdout.on('data', (bytes) => {
      text += bytes
    })
    const nodes = [
      image('d0', 'qcow2', 'a.qcow2'),
      image('ro', 'qcow2', 'b.qcow2', true),
      image('r0', 'raw', 'a.raw'),
      image('below', 'qcow2', 'c.qcow2'),
    ]
    const group = { 'qom-type': 'throttle-group', id: 'group' }
    const filter = {
      'node-name': 't0',
      driver: 'throttle',
      'throttle-group': 'group',
      file: 'below',
    }
    const commands = [
      { execute: 'qmp_capabilities' },
      { execute: 'object-add', arguments: group },
      ...nodes,
      { execute: 'blockdev-add', arguments: filter },
      ...script,
      { execute: 'quit' },
    ]
    child.stdin.end(commands.map((each) => `${JSON.stringify(each)}\n`).join(''))
    await once(child, 'close')
    const times = /^(date|vm-clock)-n?sec$/
    return text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line, (key, value) => (times.test(key) ? 0 : value)))
      .filter((message) => !('QMP' in message))
  }
})
