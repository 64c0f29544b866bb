/** Limits of a throttle group, as QMP's `ThrottleLimits` has them, and when they make sense. */
import { invalid } from '../errors.ts'

/** What is limited: bytes or operations of reads, of writes, or of both together. */
export const throttleBuckets = [
  'iops-total',
  'iops-read',
  'iops-write',
  'bps-total',
  'bps-read',
  'bps-write',
] as const
export type BucketName = (typeof throttleBuckets)[number]

export interface BucketLimits {
  /** A second, in the long run; 0 is no limit. */
  readonly rate: number
  /** A second, in bursts; 0: bursts are a tenth of a second of `rate`. */
  readonly max: number
  /** Seconds that a burst may last. */
  readonly maxLength: number
}

export type ThrottleLimits = Readonly<Record<BucketName, BucketLimits>> & {
  /** Bytes that count as one operation, longer requests as several; 0: every request is one. */
  readonly 'iops-size': number
}

const unlimited: BucketLimits = { rate: 0, max: 0, maxLength: 1 }

export const noLimits: ThrottleLimits = {
  'iops-total': unlimited,
  'iops-read': unlimited,
  'iops-write': unlimited,
  'bps-total': unlimited,
  'bps-read': unlimited,
  'bps-write': unlimited,
  'iops-size': 0,
}

/** Names of the members of QMP's `ThrottleLimits`. */
export const limitNames: readonly string[] = [
  ...throttleBuckets.flatMap((name) => [name, `${name}-max`, `${name}-max-length`]),
  'iops-size',
]

/** The limits with some members changed. Throws when they do not go together. */
export function changedLimits(
  limits: ThrottleLimits,
  changes: Readonly<Record<string, number | undefined>>,
): ThrottleLimits {
  const result: Record<string, unknown> = {
    'iops-size': changes['iops-size'] ?? limits['iops-size'],
  }
  for (const name of throttleBuckets) {
    const before = limits[name]
    result[name] = {
      rate: changes[name] ?? before.rate,
      max: changes[`${name}-max`] ?? before.max,
      maxLength: changes[`${name}-max-length`] ?? before.maxLength,
    }
  }
  const changed = result as unknown as ThrottleLimits
  checkLimits(changed)
  return changed
}

/** The value of a member of `ThrottleLimits`. */
export function limitOf(limits: ThrottleLimits, name: string): number {
  if (name === 'iops-size') return limits['iops-size']
  const [, bucket, part] = /^(.*?)(-max|-max-length)?$/.exec(name) ?? []
  const { rate, max, maxLength } = limits[bucket as BucketName]
  return part === '-max' ? max : part === '-max-length' ? maxLength : rate
}

/** Above it sums would lose precision. */
const highestRate = 1e15
const longestBurst = 2 ** 32 - 1

function checkLimits(limits: ThrottleLimits): void {
  checkTotals(limits)
  if (
    limits['iops-size'] !== 0 &&
    !['iops-total', 'iops-read', 'iops-write'].some((name) => limits[name as BucketName].rate > 0)
  ) {
    throw invalid('iops size requires an iops value to be set')
  }
  for (const name of throttleBuckets) checkBucket(limits[name])
}

function checkTotals(limits: ThrottleLimits): void {
  for (const kind of ['bps', 'iops'] as const) {
    for (const part of ['rate', 'max'] as const) {
      const parts = limits[`${kind}-read`][part] !== 0 || limits[`${kind}-write`][part] !== 0
      if (limits[`${kind}-total`][part] !== 0 && parts) {
        throw invalid(
          'bps/iops/max total values and read/write values cannot be used at the same time',
        )
      }
    }
  }
}

function checkBucket({ rate, max, maxLength }: BucketLimits): void {
  if (rate < 0 || max < 0 || rate > highestRate || max > highestRate) {
    throw invalid(`bps/iops/max values must be within [0, ${highestRate}]`)
  }
  if (maxLength === 0) throw invalid('the burst length cannot be 0')
  // QEMU takes a negative length for a very large one.
  const isLong = maxLength > 1 || maxLength < 0
  if (isLong && max === 0) throw invalid('burst length set without burst rate')
  if (maxLength < 0 || maxLength > longestBurst || (max !== 0 && maxLength > highestRate / max)) {
    throw invalid('burst length too high for this burst rate')
  }
  if (max !== 0 && rate === 0)
    throw invalid('bps_max/iops_max require corresponding bps/iops values')
  if (max !== 0 && max < rate) throw invalid('bps_max/iops_max cannot be lower than bps/iops')
}
