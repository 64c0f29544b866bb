/** `vma verify`: reads a whole archive and checks everything that can be checked. */
import { limitsOf, progressOf } from '../../archive/vma/restore.ts'
import { BlockError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import { describe } from './list.ts'
import { listOf, openArchive, parseCommandLine, print, ReadProgress } from './support.ts'

export async function verifyCommand(args: string[], io: CliIo): Promise<void> {
  const line = parseCommandLine(args, 'v', [{ name: 'json' }], ['filename'])
  const json = line.has('json')
  try {
    await verify(line.positionals[0], line.has('v') && !json ? 'text' : 'quiet', json, io)
  } catch (error) {
    if (json) await print(io.stdout, `${JSON.stringify(failure(error), null, 2)}\n`)
    throw error
  }
}

async function verify(name: string, output: 'text' | 'quiet', json: boolean, io: CliIo) {
  await using reader = await openArchive(name, io)
  const { header } = reader
  if (output === 'text') await print(io.stdout, listOf(header))
  const total = header.devices.reduce((sum, { size }) => sum + size, 0)
  const progress = new ReadProgress(io.stdout, output === 'text' ? total : Infinity)
  const limits = limitsOf(header.devices)
  for await (const extent of reader.extents()) {
    io.signal?.throwIfAborted()
    await progress.add(progressOf(extent, limits, limits))
  }
  if (output === 'text') await progress.printTotals()
  if (!json) return
  const { blockZeroes: _, ...totals } = progress.totals
  const result = { ok: true, ...describe(header), archiveSize: reader.position, ...totals }
  await print(io.stdout, `${JSON.stringify(result, null, 2)}\n`)
}

function failure(error: unknown) {
  if (!(error instanceof BlockError)) return { ok: false, error: { message: String(error) } }
  const { code, message, path, offset } = error
  return { ok: false, error: { code, message, path, offset } }
}
