/** The daemon that serves the disk. */
import { stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { QmpClient } from '../src/wire/qmp/client.ts'
import { start } from './programs.ts'

export function startDaemon(image: string, nbd: string, qmp: string) {
  const file = `file.driver=file,file.filename=${escaped(image)}`
  return start([
    'daemon',
    '--blockdev',
    `driver=qcow2,node-name=disk0,discard=unmap,${file}`,
    '--nbd-server',
    `addr.type=unix,addr.path=${escaped(nbd)}`,
    '--export',
    'type=nbd,id=guest,node-name=disk0,name=disk0,writable=on',
    '--chardev',
    `socket,id=qmp,path=${escaped(qmp)},server=on,wait=off`,
    '--monitor',
    'chardev=qmp',
  ])
}

/** In QEMU's option strings a comma is written twice. */
function escaped(value: string): string {
  return value.replaceAll(',', ',,')
}

export async function daemonListens(
  socket: string,
  ended: Promise<{ readonly stderr: string }>,
  signal: AbortSignal,
): Promise<void> {
  let over: string | undefined
  void ended.then(({ stderr }) => {
    over = stderr.trim()
  })
  for (let tries = 0; !(await stat(socket).catch(() => undefined)); tries++) {
    if (over !== undefined) throw new Error(`the daemon did not start: ${over}`)
    if (tries === 300) throw new Error('the daemon does not listen after 15 s')
    await sleep(50, undefined, { signal })
  }
}

export async function nodeNames(monitor: string): Promise<string> {
  await using client = await QmpClient.connect(monitor)
  const nodes = (await client.execute('query-named-block-nodes')) as { 'node-name': string }[]
  return nodes
    .map((node) => node['node-name'])
    .toSorted()
    .join(', ')
}
