import { expect, test } from 'vitest'
import { versionLine } from './program-name.ts'

test('a version names the program of QEMU that it is like, as scripts look for it', () => {
  expect(versionLine('varve-img', 'qemu-img', '1.2.3', 'version ')).toBe(
    'varve-img version 1.2.3, like qemu-img version 7.2\n',
  )
})

test('called by the name of that program it has its version first', () => {
  expect(versionLine('qemu-nbd', 'qemu-nbd', '1.2.3', '')).toBe('qemu-nbd 7.2 (varve 1.2.3)\n')
})
