/** `-o name=value,…` of new images, and of amend. */
import type { Random } from '../random.ts'
import type { Subject } from './img-commands.ts'
import * as value from './values.ts'
import { files } from './world.ts'

const preallocations = ['off', 'metadata', 'falloc', 'full']
export const preallocation = (random: Random) =>
  random.pick(random.chance(0.9) ? preallocations : ['', 'bad', 'Off'])

const cipher = (random: Random) =>
  random.pick([
    ...['cipher-alg=aes-128', 'cipher-alg=aes-192', 'cipher-alg=serpent-256', 'cipher-alg=x'],
    ...['cipher-mode=cbc', 'cipher-mode=ecb', 'cipher-mode=ctr', 'cipher-mode='],
    ...['ivgen-alg=plain', 'ivgen-alg=essiv', 'ivgen-hash-alg=sha1', 'hash-alg=sha512'],
    ...['hash-alg=md5', 'hash-alg=x', 'iter-time=0', 'iter-time=-1', 'iter-time=x'],
  ])

/** `name=value` of the options of a new image. */
const createOptions: readonly ((random: Random, subject: Subject) => string)[] = [
  (random) => `size=${value.size(random)}`,
  (random) =>
    `cluster_size=${random.pick(['512', '4k', '16k', '64k', '2M', '1M', '65536', '4M', '3k', '0.5k', '0', 'x'])}`,
  (random) => `compat=${random.pick(['0.10', '1.1', 'v2', 'v3', '1.0', ''])}`,
  (random) => `refcount_bits=${random.pick(['1', '2', '8', '16', '64', '3', '128', '0', 'x'])}`,
  (random) => `lazy_refcounts=${random.pick(['on', 'off', 'yes', 'true', ''])}`,
  (random) => `extended_l2=${random.pick(['on', 'off', 'maybe'])}`,
  (random) => `preallocation=${preallocation(random)}`,
  (random) => `compression_type=${random.pick(['zlib', 'zstd', 'lz4', ''])}`,
  (random) => `backing_file=${random.pick(files).name}`,
  (_, { other }) => `backing_file=${other.name},backing_fmt=${other.format}`,
  (random) => `backing_fmt=${value.format(random)}`,
  (random) => `data_file=${random.pick(['new.data', 'outside.data', 'r', ''])}`,
  (random) => `data_file_raw=${random.pick(['on', 'off'])}`,
  (random) => `encryption=${random.pick(['on', 'off'])}`,
  (random) => `encrypt.format=${random.pick(['luks', 'aes', 'x'])},encrypt.iter-time=10`,
  () => 'encrypt.key-secret=k',
  () => 'encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10',
  () => 'key-secret=k,iter-time=10',
  (random) => `key-secret=k,iter-time=10,${cipher(random)}`,
  (random) =>
    `encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10,encrypt.${cipher(random)}`,
  (random) => `nocow=${random.pick(['on', 'off'])}`,
  (random) => `extent_size_hint=${value.size(random)}`,
  (random) =>
    random.pick([
      'help',
      '?',
      'nonsense=1',
      'nonsense',
      ',',
      'size',
      'nolazy_refcounts',
      '=x',
      ',,',
    ]),
]

export function drawnOptions(random: Random, subject: Subject): string {
  const own = random.chance(0.7) ? createOptions.slice(0, 16) : createOptions
  const parts: string[] = []
  do parts.push(random.pick(own)(random, subject))
  while (random.chance(0.4))
  return parts.join(',')
}
