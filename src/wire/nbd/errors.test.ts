import { describe, expect, it } from 'vitest'
import { BlockError, systemError } from '../../errors.ts'
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EPERM,
  NBD_ESHUTDOWN,
} from './constants.ts'
import { errorOfValue, errorText, errorValueOf, fastZeroErrorValue } from './errors.ts'

function failure(code: string): Error {
  return Object.assign(new Error(code), { code })
}

describe('errorValueOf', () => {
  it.each([
    [new BlockError('NO_SPACE', 'x'), NBD_ENOSPC],
    [new BlockError('READ_ONLY', 'x'), NBD_EPERM],
    [new BlockError('CORRUPT_IMAGE', 'x'), NBD_EIO],
    [new BlockError('CLOSED', 'x'), NBD_ESHUTDOWN],
    [systemError(failure('EDQUOT'), 'write'), NBD_ENOSPC],
    [systemError(failure('EINVAL'), 'write'), NBD_EINVAL],
    [systemError(failure('ENXIO'), 'write'), NBD_EIO],
    [failure('EFBIG'), NBD_ENOSPC],
    [new DOMException('gone', 'AbortError'), NBD_ESHUTDOWN],
    ['not even an error', NBD_EIO],
  ])('translates %s to %d', (error, value) => {
    expect(errorValueOf(error)).toBe(value)
  })

  it('says NBD_ENOTSUP for fast zeroes alone', () => {
    const error = new BlockError('UNSUPPORTED', 'slow')
    expect(errorValueOf(error)).toBe(NBD_EINVAL)
    expect(fastZeroErrorValue(error)).toBe(NBD_ENOTSUP)
    expect(fastZeroErrorValue(new BlockError('NO_SPACE', 'x'))).toBe(NBD_ENOSPC)
  })
})

describe('errorOfValue', () => {
  it('keeps what can be told', () => {
    expect(errorOfValue(NBD_ENOSPC, 'nbd: write', 512)).toMatchObject({
      code: 'NO_SPACE',
      errno: 'ENOSPC',
      offset: 512,
      message: 'nbd: write: No space left on device',
    })
  })

  it('takes an unknown value for NBD_EINVAL', () => {
    expect(errorOfValue(4711, 'read')).toMatchObject({ code: 'IO', errno: 'EINVAL' })
    expect(errorText(4711)).toBe('Invalid argument')
  })
})
