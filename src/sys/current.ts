/** Which `Sys` this process uses. */
import { BlockError } from '../errors.ts'
import { openKoffiSys } from './koffi-sys.ts'
import { nodeSys } from './node-sys.ts'
import type { Sys } from './sys.ts'

let chosen: Sys | undefined

/**
 * The implementation of this process, loaded when first asked for (koffi takes 3 to 10 ms).
 * `VARVE_SYS=node` asks for the one without koffi, `VARVE_SYS=koffi` insists on koffi.
 */
export function sys(): Sys {
  chosen ??= choose(process.env.VARVE_SYS)
  return chosen
}

/**
 * What Node takes from worker threads says so. `isMainThread` says the same, and takes a
 * millisecond to load.
 */
function inWorker(): boolean {
  return 'disabled' in process.abort
}

/** In a worker thread koffi has open bugs, so nobody calls it there. */
function choose(wanted: string | undefined): Sys {
  if (wanted === 'node' || inWorker()) return nodeSys
  const koffi = openKoffiSys()
  if (koffi) return koffi
  if (wanted === 'koffi') {
    throw new BlockError('UNSUPPORTED', 'VARVE_SYS=koffi is set and koffi cannot be loaded here')
  }
  return nodeSys
}
