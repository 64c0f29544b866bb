/** Transfers on descriptors that were handed to us, which may be in non-blocking mode. */
import { setTimeout as sleep } from 'node:timers/promises'
import { errnoOf } from '../errors.ts'

/** How long to wait before the next try. */
const retryMs = 1

/** Starts a read or write of node:fs; `done` is the callback to give it. */
export type Transfer = (done: (error: Error | null, count: number) => void) => void

/** Runs a transfer; repeats it while the other end of a non-blocking descriptor is not ready. */
export async function patiently(transfer: Transfer): Promise<number> {
  for (;;) {
    try {
      return await new Promise<number>((resolve, reject) => {
        transfer((error, count) => (error ? reject(error) : resolve(count)))
      })
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') throw error
      await sleep(retryMs)
    }
  }
}
