/** Options of `blockdev-create` and `x-blockdev-amend`. */
import type { Names } from './names.ts'
import type { Members, Value } from './spoilt.ts'

const sizes = [0, 512, 1000, 65536, 1 << 20, 4 << 20]

export function createOptions(names: Names): Members {
  const { random } = names
  const size = random.pick(sizes)
  if (random.chance(0.25)) {
    return {
      driver: 'file',
      filename: random.pick(['new.img', 'made.img', 'no-such/x']),
      size,
      ...names.some(0.15, { preallocation: () => random.pick(['off', 'metadata', 'full']) }),
    }
  }
  return {
    driver: 'qcow2',
    file: small(names),
    size,
    ...names.some(0.12, {
      version: () => random.pick(['v2', 'v3']),
      'cluster-size': () => random.pick([512, 4096, 65536, 1000, 4 << 20]),
      'lazy-refcounts': () => names.flag(),
      'refcount-bits': () => random.pick([1, 8, 16, 64, 3]),
      'compression-type': () => random.pick(['zlib', 'zstd']),
      'extended-l2': () => names.flag(),
      preallocation: () => random.pick(['off', 'metadata', 'falloc', 'full']),
      'backing-file': () => names.file(),
      'backing-fmt': () => random.pick(['qcow2', 'raw']),
      'data-file': () => small(names),
      'data-file-raw': () => names.flag(),
    }),
  }
}

/** Ours empties the file first, which QEMU leaves as long as it was: see `docs/daemon.md`. */
function small(names: Names): string {
  const { nodes } = names.view
  const fitting = nodes.filter(
    ({ drv, image }) =>
      ['file', 'raw', 'qcow2'].includes(String(drv)) &&
      Number((image as Members)['virtual-size']) <= 196_608,
  )
  const named = fitting.map((node) => String(node['node-name'])).filter((name) => !/^#/.test(name))
  return names.one(named)
}

export function amendOptions(names: Names): Members {
  return {
    driver: names.random.pick<Value>(['qcow2', 'qcow2', 'qcow2', 'raw', 'luks']),
    ...names.some(0.05, { encrypt: () => ({ format: 'luks', state: 'active' }) }),
  }
}
