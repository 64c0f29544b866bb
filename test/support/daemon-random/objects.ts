/** `--object`: every type that the peer lists, with its properties, right and wrong. */
import type { Random } from '../random.ts'
import { joined, some } from './words.ts'

const properties: Readonly<Record<string, readonly string[]>> = {
  iothread: [
    'poll-max-ns=0',
    'poll-grow=x',
    'poll-shrink=2',
    'aio-max-batch=-1',
    'thread-pool-min=1',
  ],
  'main-loop': ['aio-max-batch=1', 'thread-pool-max=64', 'thread-pool-min=x'],
  secret: [
    'data=x',
    'file=a.raw',
    'file=no-such',
    'format=raw',
    'format=base64',
    'format=x',
    'keyid=o0',
    'iv=x',
  ],
  secret_keyring: ['serial=1', 'serial=x', 'format=raw', 'keyid=x'],
  'throttle-group': [
    'x-iops-total=100',
    'x-iops-total=-1',
    'x-bps-read=x',
    'limits.iops-total=100',
    'limits.iops-total=x',
    'limits.bps-total-max=1',
    'limits.iops-size=1',
    'x-iops-total-max-length=0',
    'limits.x=1',
  ],
  'tls-creds-anon': [
    'endpoint=server',
    'endpoint=x',
    'verify-peer=off',
    'dir=.',
    'priority=NORMAL',
  ],
  'tls-creds-psk': ['endpoint=server', 'endpoint=client', 'dir=.', 'dir=no-such', 'username=u'],
  'tls-creds-x509': ['endpoint=server', 'dir=.', 'dir=no-such', 'sanity-check=off', 'passwordid=x'],
  'authz-list': [
    'policy=allow',
    'policy=x',
    'rules.0.match=x',
    'rules.0.policy=deny',
    'rules.0.format=glob',
    'refresh=on',
  ],
  'authz-listfile': ['filename=a.raw', 'filename=no-such', 'refresh=off', 'refresh=x'],
  'authz-pam': ['service=login'],
  'authz-simple': ['identity=me'],
  'tls-cipher-suites': ['priority=NORMAL'],
  'no-such': ['x=y'],
  'memory-backend-ram': ['size=1M'],
}

export function object(random: Random): string {
  const type = random.pick(Object.keys(properties))
  const own = some(random, 0.35, properties[type])
  const id = random.chance(0.9) ? [`id=${random.pick(['o0', 'o1', 'o2', '1o', ''])}`] : []
  const wrong = random.chance(0.05)
    ? [random.pick(['x=y', 'qom-type=secret', 'id=o3', '=', 'x'])]
    : []
  const first = random.chance(0.1) ? `qom-type=${type}` : type
  return joined(random, [first, ...id, ...own, ...wrong])
}
