/** `--chardev`: every kind, with its options, right and wrong. None that waits for somebody. */
import type { Random } from '../random.ts'
import { joined, some } from './words.ts'

type Maker = (random: Random) => readonly string[]

const server = ['server=on', 'wait=off']

const kinds: readonly Maker[] = [
  () => ['null'],
  (random) => [
    'file',
    `path=${random.pick(['out', '/no-such/out', ''])}`,
    ...some(random, 0.2, ['append=on', 'append=x']),
  ],
  (random) => [
    'ringbuf',
    ...some(random, 0.7, [`size=${random.pick(['64', '100', '4k', 'x', '0', '-1'])}`]),
  ],
  (random) => ['memory', `size=${random.pick(['64', '1M'])}`],
  (random) => ['mux', `chardev=${random.pick(['c0', 'c1', 'x'])}`],
  (random) => ['pipe', `path=${random.pick(['no-such', '/no-such'])}`],
  (random) => [random.pick(['serial', 'tty', 'parallel', 'parport']), 'path=no-such'],
  (random) => [
    'udp',
    ...some(random, 0.5, [
      'host=127.0.0.1',
      'port=9',
      'port=x',
      'localaddr=127.0.0.1',
      'localport=0',
      'ipv4=on',
      'ipv6=x',
    ]),
  ],
  (random) => [
    'socket',
    `path=${random.pick(['c.sock', 'd.sock', '/no-such/c', ''])}`,
    ...server,
    ...some(random, 0.08, socketOptions),
  ],
  (random) => [
    'socket',
    'path=c.sock',
    ...some(random, 0.6, server),
    ...some(random, 0.12, socketOptions),
  ],
  (random) => [
    'socket',
    'host=127.0.0.1',
    `port=${random.pick(['0', 'x', ''])}`,
    ...server,
    ...some(random, 0.1, [...socketOptions, ...inetOptions]),
  ],
  (random) => ['socket', `fd=${random.pick(['99', 'x', '-1'])}`, ...server],
  (random) => [
    random.pick([
      'vc',
      'no-such',
      'msmouse',
      'braille',
      'backend=null',
      'backend=',
      'dbus',
      'console',
    ]),
  ],
]

/** `server` alone would wait, and a client that is not served tries for ever. */
const socketOptions = [
  'telnet=on',
  'tn3270=on',
  'websocket=on',
  'nodelay=on',
  'delay=off',
  'reconnect=1',
  'reconnect=x',
  'reconnect=-1',
  'tls-creds=o0',
  'tls-creds=no-such',
  'tls-authz=x',
  'abstract=on',
  'tight=off',
  'server=x',
  'wait=x',
  'nowait',
]

const inetOptions = ['to=5', 'to=x', 'ipv4=on', 'ipv4=off', 'ipv6=off', 'ipv6=x']

export function chardev(random: Random): string {
  const [kind, ...own] = random.pick(kinds)(random)
  const id = random.chance(0.95) ? [`id=${random.pick(['c0', 'c1', 'c2', '1c', ''])}`] : []
  const more = some(random, 0.06, [
    'mux=on',
    'mux=x',
    'logfile=log',
    'logfile=/no-such/log',
    'logappend=on',
    'logappend=x',
    'x=y',
    'size=1',
    'signal=off',
  ])
  return joined(random, [kind, ...id, ...own, ...more])
}
