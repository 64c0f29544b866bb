/** Random command lines for qemu-nbd, none of which comes to serve anything. */
import type { Random } from '../random.ts'
import * as value from './values.ts'

const maybe = (random: Random, chance: number, draw: () => readonly string[]) =>
  random.chance(chance) ? draw() : []

const number = (random: Random) =>
  random.pick([
    '0',
    '1',
    '10',
    '010',
    '0x10',
    '-1',
    '1k',
    '',
    'x',
    '99999999999',
    '65536',
    ' 1',
    '+1',
  ])

/** The words behind the program's name. There is no server at `socket`. */
export function nbdLine(random: Random, socket: string): string[] {
  const or = (sound: readonly string[], wrong: readonly string[]) =>
    random.pick(random.chance(0.8) ? sound : wrong)
  const joined = (name: string, text: string) =>
    random.chance(0.6) ? [`--${name}=${text}`] : [`--${name}`, text]
  const words = [
    ['-k', random.chance(0.9) ? socket : random.pick(['sock', '', './sock'])],
    maybe(random, 0.1, () => ['-e', number(random)]),
    maybe(random, 0.1, () => joined('shared', number(random))),
    maybe(random, 0.15, () => ['-o', number(random)]),
    maybe(random, 0.2, () => ['-f', value.format(random)]),
    maybe(random, 0.1, () => ['-r']),
    maybe(random, 0.1, () => ['-s']),
    maybe(random, 0.1, () => ['-t']),
    maybe(random, 0.1, () => ['-n']),
    maybe(random, 0.15, () => joined('cache', value.cacheMode(random))),
    maybe(random, 0.15, () => joined('aio', or(['native', 'threads', 'io_uring'], ['x', '']))),
    maybe(random, 0.2, () => joined('discard', or(['ignore', 'unmap', 'on', 'off'], ['x', '']))),
    maybe(random, 0.2, () => joined('detect-zeroes', or(['on', 'off', 'unmap'], ['x', '']))),
    maybe(random, 0.1, () => [
      '-l',
      or(['one', 'snapshot.id=1'], ['snapshot.x=1', 'snapshot.', '']),
    ]),
    maybe(random, 0.1, () => ['-x', or(['name'], ['n'.repeat(5000), ''])]),
    maybe(random, 0.1, () => ['-D', or(['text'], ['n'.repeat(5000), ''])]),
    maybe(random, 0.05, () => ['-A']),
    maybe(random, 0.05, () => ['-B', 'b0']),
    maybe(random, 0.1, () => joined('tls-creds', random.pick(['x', '']))),
    maybe(random, 0.05, () => joined('tls-authz', 'x')),
    maybe(random, 0.05, () => joined('tls-hostname', 'x')),
    maybe(random, 0.05, () => ['--image-opts']),
    maybe(random, 0.07, () => [
      '--object',
      random.pick([
        'secret',
        'secret,id=z,data=x',
        'x,id=y',
        '',
        'tls-creds-x509,id=x,dir=/nosuch',
      ]),
    ]),
    maybe(random, 0.1, () => ['-L']),
    maybe(random, 0.05, () => ['-v']),
    maybe(random, 0.05, () => ['-p', number(random)]),
    maybe(random, 0.03, () => ['-b', 'localhost']),
    maybe(random, 0.03, () => [
      random.pick(['-Z', '--nonsense', '--=', '--cac=none', '--per', '-e']),
    ]),
  ]
  const operands = maybe(random, 0.9, () => [random.pick(['nosuch', 'nodir/x'])])
  const line = [...random.shuffled(words).flat(), ...operands]
  // Too many of them.
  return random.chance(0.05) ? [...line, 'nosuch'] : line
}
