import { neverAborted, plainWriteIo } from '../../src/block/layer.ts'
import { luks } from '../../src/format/luks/luks.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { openContext } from '../support/context.ts'
import { testSecrets as secrets } from '../support/qcow2.ts'
import { testLayer } from './layer.ts'

const variants: readonly Readonly<Record<string, unknown>>[] = [
  {},
  { 'cipher-alg': 'twofish-256', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv' },
]

for (const options of variants) {
  testLayer(
    `luks ${JSON.stringify(options)}`,
    async (size) => {
      const file = new MemoryLayer({ size: 0 })
      const { creator } = luks
      if (!creator) throw new Error('luks images cannot be made')
      const parsed = creator.parse({ ...options, size, 'key-secret': 's', 'iter-time': 1 })
      await creator.create(parsed, { file, secrets, signal: neverAborted })
      const open = () =>
        luks.open(
          { file: 'file', keySecret: 's' },
          { ...openContext(), secrets, child: async () => file },
        )
      const layer = await open()
      // What a new one reads as is left to chance.
      await layer.write(0, new Uint8Array(size), plainWriteIo)
      return { layer, reopen: open, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
    },
    { operations: 60 },
  )
}
