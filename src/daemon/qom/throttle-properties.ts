/** The properties of a `throttle-group`: `limits` as a whole, and each by itself as `x-…`. */

import type { ThrottleGroup } from '../../block/throttle-group.ts'
import { changedLimits, limitNames, limitOf } from '../../block/throttle-limits.ts'
import { invalid } from '../../errors.ts'
import { check } from '../schema/check.ts'
import { throttleLimits } from '../schema/throttle-limits.ts'
import { object, required } from '../schema/types.ts'
import type { PropertyValues } from './property-values.ts'

export class ThrottleProperties implements PropertyValues {
  readonly #group: ThrottleGroup

  constructor(group: ThrottleGroup) {
    this.#group = group
  }

  get(name: string): unknown {
    const { limits } = this.#group
    if (name !== 'limits') return limitOf(limits, name.slice('x-'.length))
    return Object.fromEntries(limitNames.map((each) => [each, limitOf(limits, each)]))
  }

  /** Only `limits`, of which what is not given stays. In force at once. */
  set(name: string, value: unknown): void {
    if (name !== 'limits') throw invalid('Property cannot be set after initialization')
    const { limits } = check(object('', { limits: required(throttleLimits, '') }), {
      limits: value,
    })
    this.#group.limits = changedLimits(this.#group.limits, limits)
  }
}
