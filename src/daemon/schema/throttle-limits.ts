/** `ThrottleLimits`, as arguments and properties have it. */
import { limitNames } from '../../block/throttle-limits.ts'
import { int, object, optional } from './types.ts'

const limit = optional(int, 'See `throttle` in the documentation of drivers.')

export const throttleLimits = object(
  'ThrottleLimits',
  Object.fromEntries(limitNames.map((name) => [name, limit])),
)
