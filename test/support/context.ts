/** An `OpenContext` for drivers that are opened without a graph. */
import type { OpenContext, OpenFlags } from '../../src/block/driver.ts'
import { neverAborted } from '../../src/block/layer.ts'

export function openContext(flags: Partial<OpenFlags> = {}, name = 'disk0'): OpenContext {
  const refuse = async () => {
    throw new Error('this driver was not expected to have children')
  }
  return {
    name,
    signal: neverAborted,
    flags: { readOnly: false, direct: false, noFlush: false, forceShare: false, ...flags },
    child: refuse,
    implied: refuse,
  }
}
