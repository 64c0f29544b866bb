import { setTimeout as sleep } from 'node:timers/promises'

/** Longest wait; only a failing test waits that long. */
const patienceMs = 10_000

/** Settles when `condition` holds, which is looked at again and again. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + patienceMs
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`it did not come to pass: ${condition}`)
    await sleep(2)
  }
}
