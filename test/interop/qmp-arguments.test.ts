/** Every command, with arguments that are wrong in one place each: Debian's daemon and ours. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { WrongArguments } from '../support/qmp-arguments.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon')

/** These end the conversation, differ by their nature, or end Debian's daemon by a signal. */
const exceptions = [
  ...['quit', 'qmp_capabilities', 'query-version', 'query-commands', 'query-qmp-schema'],
  ...['blockdev-reopen', 'transaction'],
]
/** The same as those of another command. */
const repeated = process.env.VARVE_LONG ? [] : ['chardev-change', 'drive-mirror', 'drive-backup']

qsd.describe('wrong arguments', () => {
  let pair: QmpPair

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-arguments'), qsd.path as string, () => {})
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  it('are found fault with alike', { timeout: 120_000 }, async () => {
    const [theirs, ours] = await pair.schemas()
    const wrong = new WrongArguments(theirs, ours)
    const names = wrong.commands().filter((name) => !exceptions.includes(name))
    expect(names.length).toBeGreaterThan(60)
    const differences: string[] = []
    for (const name of names.filter((each) => !repeated.includes(each))) {
      const steps = wrong.of(name).map((args) => command(name, args as Message))
      differences.push(...(await pair.differences(steps)))
    }
    expect(differences).toEqual([])
  })
})
