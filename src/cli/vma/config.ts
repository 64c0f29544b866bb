/** `vma config`: one configuration file of an archive, as it is. */
import { BlockError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import { openArchive, parseCommandLine, print } from './support.ts'

/** The configuration that a virtual machine's archive has. */
const defaultConfig = 'qemu-server.conf'

export async function configCommand(args: string[], io: CliIo): Promise<void> {
  const line = parseCommandLine(args, 'c:', [{ name: 'json' }], ['filename'])
  const name = line.last('c') ?? defaultConfig
  await using reader = await openArchive(line.positionals[0], io)
  const config = reader.header.configs.find((each) => each.name === name)
  if (!config) {
    const names = reader.header.configs.map((each) => each.name).join(', ') || 'none'
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${reader.name}' has no configuration '${name}'; it has: ${names}`,
      { path: reader.name },
    )
  }
  await print(io.stdout, line.has('json') ? `${toJson(config)}\n` : config.data)
}

/** Text where it is text, base64 where it is not. */
function toJson({ name, data }: { readonly name: string; readonly data: Uint8Array }): string {
  const text = Buffer.from(data).toString('utf8')
  const content = Buffer.from(text).equals(data)
    ? { data: text }
    : { base64: Buffer.from(data).toString('base64') }
  return JSON.stringify({ name, size: data.length, ...content }, null, 2)
}
