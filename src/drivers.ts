/** The one list of drivers. Probing asks the formats in this order. */
import type { BlockDriver } from './block/driver.ts'
import { raw } from './format/raw.ts'

export const drivers: readonly BlockDriver[] = [raw] as readonly BlockDriver[]
