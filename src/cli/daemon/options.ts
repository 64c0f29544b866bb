/** What the options of `varve daemon` say, each as a step that is done in the order given. */

import { addNode } from '../../daemon/commands/block.ts'
import { addExport, blockExportOptions } from '../../daemon/commands/exports.ts'
import { nbdServerMembers, startNbdServer } from '../../daemon/commands/nbd.ts'
import { addObject, objectOptions } from '../../daemon/commands/objects.ts'
import { blockdevOptions } from '../../daemon/schema/blockdev-options.ts'
import { check } from '../../daemon/schema/check.ts'
import { socketAddress } from '../../daemon/schema/socket-address.ts'
import {
  bool,
  enumeration,
  object,
  optional,
  required,
  str,
  type Type,
} from '../../daemon/schema/types.ts'
import type { StorageDaemon } from '../../daemon/storage-daemon.ts'
import { BlockError } from '../../errors.ts'
import { parseJson } from '../../wire/qmp/parser.ts'
import type { NamedIo } from '../command.ts'
import { parseKeyval } from '../keyval.ts'
import { parseChardev } from './chardev-option.ts'
import { type HelpAsked, objectHelp } from './help.ts'
import { takeTrace } from './trace-option.ts'

/** `spelled` is the option as it was given, which warnings repeat. */
export type Step = (daemon: StorageDaemon, io: NamedIo, spelled: string) => void | Promise<void>

const nbdServerOptions = object('NbdServerOptions', {
  addr: required(socketAddress, 'Where to listen.'),
  ...nbdServerMembers,
})

const monitorOptions = object('MonitorOptions', {
  id: optional(str, 'Name of the monitor.'),
  mode: optional(enumeration('MonitorMode', ['readline', 'control']), 'Only `control`.'),
  pretty: optional(bool, 'Whether answers are indented.'),
  chardev: required(str, 'Where its clients come from.'),
})

/** By name of the option; each turns its argument into a step, or throws what is wrong with it. */
export const steps: Readonly<Record<string, (argument: string) => Step>> = {
  blockdev: (argument) => {
    const options = read(blockdevOptions, argument, 'driver')
    return (daemon) => addNode(daemon, options)
  },
  object: (argument) => {
    const options = read(objectOptions, argument, 'qom-type', ({ 'qom-type': kind }) =>
      objectHelp(String(kind)),
    )
    return (daemon) => addObject(daemon, options)
  },
  'nbd-server': (argument) => {
    const { addr, ...options } = read(nbdServerOptions, argument)
    return (daemon) => startNbdServer(daemon, addr, options)
  },
  export: (argument) => {
    const options = read(blockExportOptions, argument, 'type')
    return (daemon) => addExport(daemon, options, { inherited: true })
  },
  chardev: (argument) => {
    const { id, backend, shared, warnings } = parseChardev(argument)
    return async ({ chardevs }, { program, stdout, stderr }, spelled) => {
      for (const each of warnings) stderr.write(`${program}: ${spelled}: ${each}\n`)
      const base = shared ? `${id}-base` : id
      const { pty } = await chardevs.add(base, backend)
      if (pty) stdout.write(`char device redirected to ${pty} (label ${base})\n`)
      if (shared) await chardevs.add(id, { type: 'mux', data: { chardev: base } })
    }
  },
  monitor: (argument) => {
    const { chardev, pretty, mode } = read(monitorOptions, argument, 'chardev')
    return (daemon) => {
      if (mode === 'readline') {
        throw new BlockError('UNSUPPORTED', 'Only QMP is supported')
      }
      daemon.addMonitor(chardev, { pretty })
    }
  },
  trace: (argument) => (_daemon, io, spelled) => {
    takeTrace(argument, (text) => void io.stderr.write(`${io.program}: ${spelled}: ${text}\n`), io)
  },
}

/** In JSON, or as keys and values. */
function read<T>(
  type: Type<T>,
  argument: string,
  impliedKey?: string,
  help?: (given: Readonly<Record<string, unknown>>) => HelpAsked,
): T {
  if (!argument.startsWith('{')) {
    let helpAsked = false
    const given = parseKeyval(argument, impliedKey, () => {
      helpAsked = true
    })
    if (helpAsked) throw help?.(given) ?? noHelp()
    return check(type, given, 'keyval')
  }
  const message = parseJson(argument)
  if ('error' in message) throw new BlockError('INVALID_ARGUMENT', message.error)
  return check(type, message.value)
}

function noHelp(): BlockError {
  return new BlockError('INVALID_ARGUMENT', 'Help is not available for this option')
}
