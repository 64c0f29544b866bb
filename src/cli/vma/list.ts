/** `vma list`: what an archive says about itself. */
import { formatUuid, isVmstate, type StoredHeader } from '../../archive/vma/header.ts'
import type { CliIo } from '../command.ts'
import { listOf, openArchive, parseCommandLine, print } from './support.ts'

export async function listCommand(args: string[], io: CliIo): Promise<void> {
  const line = parseCommandLine(args, '', [{ name: 'json' }], ['filename'])
  await using reader = await openArchive(line.positionals[0], io)
  const text = line.has('json')
    ? `${JSON.stringify(describe(reader.header), null, 2)}\n`
    : listOf(reader.header)
  await print(io.stdout, text)
}

/** The header as `--json` shows it. */
export function describe(header: StoredHeader) {
  return {
    uuid: formatUuid(header.uuid),
    ctime: header.ctime,
    configs: header.configs.map(({ name, data }) => ({ name, size: data.length })),
    devices: header.devices.map((device) => ({ ...device, vmstate: isVmstate(device) })),
    checksums: header.extensions.checksums,
    index: header.extensions.index,
  }
}
