/** `varve snap take|resume` and a real QEMU: the guest runs afterwards, whatever happens. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runVarve, startVarve } from '../support/programs.ts'
import { bootDisk, counterOf, qemuSystem, Vm } from '../support/vm.ts'

const folder = scratchFolder('snap-take')
const at = (name: string) => join(folder, name)
/** Rows of which the everyday run has enough similar ones. */
const long = process.env.VARVE_LONG === '1'
const qemuImg = peer('qemu-img')

async function take(vm: Vm, ...args: string[]) {
  const { status, stdout, stderr } = await runVarve([
    ...['snap', 'take', '--json', '--qmp', vm.monitor, ...args],
  ])
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout.toString())
}

async function resume(vm: Vm, ...args: string[]) {
  const { status, stdout, stderr } = await runVarve([
    ...['snap', 'resume', '--json', '--qmp', vm.monitor, ...args],
  ])
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout.toString())
}

qemuSystem.describe('take and resume', () => {
  it.each([
    ['background', '-p0'],
    ...(long
      ? [
          ['live', '-p50'],
          ['live', ''],
        ]
      : []),
  ])('%s, resumed with %s', async (mode, postcopy) => {
    const file = at(`${mode}${postcopy}.qcow2`)
    await using vm = await Vm.start({ folder, name: 'source' })
    await vm.progress(5)
    const before = (await vm.lines()).length
    expect(await take(vm, '--mode', mode, file)).toMatchObject({ mode })
    const after = (await vm.lines()).length
    await vm.progress(5)
    const capabilities = JSON.stringify(await vm.qmp.execute('query-migrate-capabilities'))
    expect(capabilities).not.toContain('"state":true')
    await using next = await Vm.start({ folder, name: 'next', incoming: 'defer' })
    const resumed = await resume(next, ...(postcopy === '' ? [] : [postcopy]), file)
    expect(resumed.runningAfterMs).toBeGreaterThan(0)
    const [line] = await next.progress(3)
    expect(counterOf(line)).toBeGreaterThanOrEqual(before)
    expect(counterOf(line)).toBeLessThanOrEqual(after + 20)
  })

  it.each(long ? ['background', 'live'] : ['background'])(
    '%s, with the disks of that moment',
    async (mode) => {
      await bootDisk(at('boot.raw'))
      const disk = at(`${mode}-disk.qcow2`)
      await qemuImg.run('convert', '-f', 'raw', '-O', 'qcow2', at('boot.raw'), disk)
      const drive = `file=${disk},if=ide,format=qcow2,id=boot`
      await using vm = await Vm.start({ folder, name: 'disks', drive })
      await vm.progress(5)
      const overlay = at(`${mode}-overlay.qcow2`)
      const file = at(`${mode}-disks.qcow2`)
      await take(vm, '--mode', mode, '--disk', `boot=${overlay}`, file)
      await vm.progress(5)
      expect(await vm.runState()).toBe('running')
      expect(JSON.stringify(await vm.qmp.execute('query-block'))).toContain(overlay)
      await using next = await Vm.start({
        ...{ folder, name: 'disked', incoming: 'defer' },
        drive: `file=${disk},if=ide,format=qcow2,snapshot=on,file.locking=off`,
      })
      await resume(next, file)
      // Saved as running, although it was stopped for the disks.
      await next.progress(3)
      const [again] = [
        await runVarve(['snap', 'take', '--qmp', vm.monitor, '--disk', `boot=${overlay}`, at('x')]),
      ]
      expect(again.stderr).toMatch(/exists already/)
      await vm.progress(3)
    },
  )

  it('refuses before the guest is touched, and leaves nothing', async () => {
    await using vm = await Vm.start({ folder, name: 'refusing' })
    await vm.progress(3)
    const file = at('refused.qcow2')
    const refusals: [string[], RegExp][] = [
      [['--disk', `nothere=${at('y')}`], /no disk and no node/],
      [['--base', at('missing.qcow2')], /Could not open/],
      [['--mode', 'quick'], /Invalid mode/],
    ]
    for (const [args, message] of refusals) {
      await expect(take(vm, ...args, file)).rejects.toThrow(message)
      await vm.progress(2)
      expect(await vm.runState()).toBe('running')
      expect(existsSync(file)).toBe(false)
    }
    await expect(resume(vm, at('background-p0.qcow2'))).rejects.toThrow(/-incoming defer/)
    await vm.qmp.execute('stop')
    expect((await take(vm, at('paused.qcow2'))).normalPages).toBeGreaterThan(16000)
    await vm.qmp.execute('cont')
    await vm.progress(2)
  })

  it('lets the guest go on when it is interrupted or killed', async () => {
    await using vm = await Vm.start({ folder, name: 'interrupted' })
    await vm.progress(3)
    await vm.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 20e6 })
    for (const signal of ['SIGINT', 'SIGKILL'] as const) {
      const file = at(`${signal}.qcow2`)
      const args = ['snap', 'take', '--mode', 'live', '--qmp', vm.monitor, file]
      const taking = startVarve(args)
      await vm.migrated(['active'])
      taking.child.kill(signal)
      await taking.ended
      await vm.migrated(['failed', 'cancelled'])
      await vm.progress(3)
      expect(await vm.runState()).toBe('running')
      expect(existsSync(file)).toBe(false)
    }
  })
})
