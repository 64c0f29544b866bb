import { describe, expect, it } from 'vitest'
import { deferred } from '../block/deferred.ts'
import { JobTable } from './job-table.ts'

describe('a job that takes effect', () => {
  it('is not cancelled any more, and does not say that it was', async () => {
    const jobs = new JobTable()
    const effect = deferred()
    const taking = deferred()
    const job = jobs.start(
      { id: 'j', type: 'mirror' },
      {
        run: async () => {},
        complete: async () => {
          taking.resolve()
          await effect.promise
        },
      },
    )
    await taking.promise
    await expect(job.cancel()).rejects.toMatchObject({ code: 'BUSY' })
    let ended = false
    const all = jobs.cancelAll().then(() => {
      ended = true
    })
    await new Promise(setImmediate)
    expect(ended, 'who closes the graph waits for it').toBe(false)
    effect.resolve()
    await all
    await job.done
    expect(job.cancelled).toBe(false)
  })

  it('can be cancelled until then', async () => {
    const jobs = new JobTable()
    const took: string[] = []
    const options = { id: 'j', type: 'backup', manualFinalize: true } as const
    const job = jobs.start(options, {
      run: async () => {},
      complete: async () => void took.push('complete'),
      abort: async () => void took.push('abort'),
    })
    while (job.status !== 'pending') await new Promise(setImmediate)
    await job.cancel()
    expect(took).toEqual(['abort'])
    expect(job.cancelled).toBe(true)
  })
})

it.each([-1, 0.5, Number.NaN])('a speed of %d is refused, and there is no job', (speed) => {
  const jobs = new JobTable()
  expect(() => jobs.create({ id: 'j', type: 'backup', speed }, { run: async () => {} })).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
  )
  expect(() => jobs.get('j')).toThrow()
})
