import { expect, it } from 'vitest'
import { listAuthorization, simpleAuthorization } from './authorization.ts'

it('allows the one identity, and nobody whose name begins like it', () => {
  const { allows } = simpleAuthorization('CN=a')
  expect(['CN=a', 'CN=ab', 'CN=', '', 'cn=a'].filter(allows)).toEqual(['CN=a'])
})

it('denies whom no rule is about, unless told otherwise', () => {
  expect(listAuthorization({}).allows('a')).toBe(false)
  expect(listAuthorization({ rules: [{ match: 'b', policy: 'allow' }] }).allows('a')).toBe(false)
  expect(listAuthorization({ policy: 'allow' }).allows('a')).toBe(true)
})

it('lets the first rule that matches decide', () => {
  const { allows } = listAuthorization({
    policy: 'allow',
    rules: [
      { match: 'CN=a', policy: 'allow' },
      { match: 'CN=*', policy: 'deny', format: 'glob' },
      { match: 'CN=b', policy: 'allow' },
      { match: 'O=*', policy: 'deny' },
    ],
  })
  expect(['CN=a', 'CN=b', 'O=x', 'O=*'].filter(allows)).toEqual(['CN=a', 'O=x'])
})
