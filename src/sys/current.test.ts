import { Worker } from 'node:worker_threads'
import { expect, it } from 'vitest'

/** What a thread of its own posts. */
function postedBy(code: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, { eval: true, execArgv: [] })
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

it('calls nothing native in a worker thread', async () => {
  const module = new URL('current.ts', import.meta.url).href
  const code = `
    import(${JSON.stringify(module)}).then(({ sys }) => {
      require('node:worker_threads').parentPort.postMessage(sys().name)
    })`
  expect(await postedBy(code)).toBe('node')
})
