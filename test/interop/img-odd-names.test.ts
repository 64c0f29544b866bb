/** Names of files that are legitimate and unusual, or that no file can have. */
import { symlinkSync } from 'node:fs'
import { afterAll, beforeAll, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair } from '../support/img.ts'

const qemu = peer('qemu-img')

let pair: Pair

qemu.describe('odd names of files', () => {
  beforeAll(() => {
    pair = new Pair()
    for (const folder of [pair.ours, pair.theirs]) symlinkSync('loop', `${folder}/loop`)
  })
  afterAll(() => pair[Symbol.dispose]())

  it.each([
    'a,b',
    "it's",
    'q"uote',
    'ümlaut-日本',
    'back\\slash',
    'new\nline',
    '[br]',
    'a=b',
    'on',
  ])('%j', async (name) => {
    await pair.same(['create', '-f', 'qcow2', name, '1M'])
    await pair.same(['info', '--output=json', name])
    await pair.same(['check', '--output=json', name])
    await pair.same(['create', '-f', 'qcow2', '-b', name, '-F', 'qcow2', 'overlay'])
    await pair.same(['info', '--backing-chain', '--output=json', 'overlay'])
  })

  it.each(['info loop', 'create -f qcow2 loop 1M', 'create loop 1M', 'convert loop out'])(
    'a link to itself: %s',
    async (command) => {
      await pair.same(command)
    },
  )

  it.each(['info', 'check', 'create -f qcow2'])('too long for a file: %s', async (command) => {
    const words = command.split(' ')
    await pair.same([...words, 'n'.repeat(256), ...(words.length > 1 ? ['1M'] : [])])
  })
})
