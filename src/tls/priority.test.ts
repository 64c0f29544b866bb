import { expect, it } from 'vitest'
import { BlockError } from '../errors.ts'
import { parsePriority } from './priority.ts'

it.each([
  [undefined, 'TLSv1.2', 'TLSv1.3'],
  ['NORMAL', 'TLSv1.2', 'TLSv1.3'],
  ['NORMAL:-VERS-TLS1.3', 'TLSv1.2', 'TLSv1.2'],
  ['SECURE256:-VERS-TLS1.2:-VERS-TLS1.1', 'TLSv1.3', 'TLSv1.3'],
  ['NORMAL:-VERS-ALL:+VERS-TLS1.3', 'TLSv1.3', 'TLSv1.3'],
  ['NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2', 'TLSv1.2', 'TLSv1.2'],
])('%s is from %s to %s', (priority, minVersion, maxVersion) => {
  expect(parsePriority(priority)).toMatchObject({ minVersion, maxVersion })
})

it.each(['FOO', 'NORMAL:+ANON-DH', 'NORMAL:-VERS-ALL', 'NORMAL:%COMPAT', '@SYSTEM', 'NORMAL:'])(
  '%s is refused: it would mean something else here',
  (priority) => {
    expect(() => parsePriority(priority)).toThrow(BlockError)
  },
)
