/** Throttled disks beside QEMU's: as fast, and refused with the same words. */
import { expect, test } from 'vitest'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'

scratchFolder('throttle')

const disk = 'driver=throttle,throttle-group=t,file.driver=null-co,file.read-zeroes=on'

async function seconds(work: () => Promise<{ readonly status: number }>): Promise<number> {
  const start = performance.now()
  expect((await work()).status).toBe(0)
  return (performance.now() - start) / 1000
}

qemuIo.describe('throttle is as fast as QEMU', () => {
  test.each([
    ['x-iops-total=40', 'read 0 512', 60],
    ['x-bps-write=1000000', 'write 0 50000', 40],
    [
      'limits.bps-total=500000,limits.bps-total-max=2000000,limits.bps-total-max-length=2',
      'write 0 100000',
      45,
    ],
    ['x-iops-read=20,x-iops-size=4096', 'read 0 8k', 20],
    ['x-bps-total=2000000,x-bps-total-max=4000000', 'discard 0 100000', 70],
  ])('%s', async (limits, command, count) => {
    const commands = Array.from({ length: count }, () => ['-c', command]).flat()
    const args = ['--object', `throttle-group,id=t,${limits}`, ...commands, '--image-opts', disk]
    const [theirs, ours] = await Promise.all([
      seconds(() => realIo(args)),
      seconds(() => varveIo(args)),
    ])
    expect(ours, `theirs ${theirs} s`).toBeGreaterThan(theirs * 0.9)
    expect(ours, `theirs ${theirs} s`).toBeLessThan(theirs * 1.1)
  })
})

qemuIo.describe('throttle refuses what QEMU refuses', () => {
  test.each([
    'x-bps-total=1k',
    'x-bps-total=-1',
    'foo=1',
    'x-iops-total=1,x-iops-read=2',
    'x-iops-total-max=1',
    'x-iops-size=5',
    'x-iops-total=5,x-iops-total-max=1',
    'limits.bps-total=5,limits.bps-total-max=9,limits.bps-total-max-length=0',
    'limits.bps-total=1000000000000001',
    'limits.foo=1',
    'x-bps-total=1000',
  ])('%s', async (limits) => {
    const object = `throttle-group,id=t,${limits}`
    const args = ['--object', object, '-c', 'read 0 512', '--image-opts', disk]
    expect(await varveIo(args)).toEqual(await realIo(args))
  })

  test.each([
    disk,
    'driver=throttle,throttle-group=t',
    'driver=throttle,file.driver=null-co',
    'driver=throttle,throttle-group=t,file.driver=null-co,file.x=1',
  ])('%s', async (options) => {
    const args = ['-c', 'read 0 512', '--image-opts', options]
    expect(await varveIo(args)).toEqual(await realIo(args))
  })
})
