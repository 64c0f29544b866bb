/** Images of every flavour, made by QEMU's tools when they are first asked for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { runTheirs } from './img.ts'
import { type Result, realIo } from './io-tools.ts'
import { type Flavour, makeFlavour } from './qcow2-flavours.ts'
import { Random } from './random.ts'

/** What each is kept in, by its name. */
export function pathOf(folder: string, { name }: Flavour): string {
  return join(folder, name.replaceAll(' ', '-'))
}

/** The bytes of an image; the same seed makes the same ones. */
export function gallery(folder: string, seed: number): (flavour: Flavour) => Promise<Buffer> {
  const made = new Map<Flavour, Promise<Buffer>>()
  return (flavour) => {
    const known = made.get(flavour) ?? make(flavour, folder, seed)
    made.set(flavour, known)
    return known
  }
}

async function make(flavour: Flavour, folder: string, seed: number): Promise<Buffer> {
  const file = pathOf(folder, flavour)
  const checked = (run: (args: readonly string[]) => Promise<Result>) => {
    return async (args: readonly string[]) => {
      const { status, stdout, stderr } = await run(args)
      expect(status, `${args.join(' ')}: ${stdout}${stderr}`).toBe(0)
    }
  }
  const img = checked((args) => runTheirs(folder, args))
  await makeFlavour(flavour, file, { img, io: checked(realIo) }, new Random(seed))
  return readFileSync(file)
}
