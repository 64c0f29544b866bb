/** Commands about the monitor itself. */
import { command } from '../command.ts'
import { QmpError } from '../errors.ts'
import { events } from '../events.ts'
import { introspect } from '../schema/introspect.ts'
import {
  any,
  empty,
  enumeration,
  int,
  list,
  object,
  optional,
  required,
  str,
} from '../schema/types.ts'
import { qmpVersion } from '../version.ts'

const versionInfo = object('VersionInfo', {
  qemu: required(
    object('VersionTriple', {
      major: required(int, 'First number.'),
      minor: required(int, 'Second number.'),
      micro: required(int, 'Third number.'),
    }),
    'The version of QEMU whose commands these are.',
  ),
  package: required(str, 'Who really answers, and its version.'),
})

const commandInfo = object('CommandInfo', { name: required(str, 'Name of the command.') })

export const monitorCommands = [
  command({
    name: 'qmp_capabilities',
    topic: 'Monitor',
    doc: 'Ends the negotiation: from now on the monitor takes commands and sends events.',
    args: object('QmpCapabilitiesArg', {
      enable: optional(
        list(enumeration('QMPCapability', ['oob'])),
        'Capabilities to switch on. `oob` may be; no command can be executed out of band.',
      ),
    }),
    states: ['negotiation'],
    run({ enable = [] }, { session }) {
      if (!session) throw new QmpError('CommandNotFound', 'only monitors negotiate')
      session.enterCommandMode(enable)
    },
  }),
  command({
    name: 'query-version',
    topic: 'Monitor',
    doc: 'Tells the version.',
    args: empty,
    returns: versionInfo,
    concurrent: true,
    run: () => qmpVersion,
  }),
  command({
    name: 'query-commands',
    topic: 'Monitor',
    doc: 'Lists the commands that there are.',
    args: empty,
    returns: list(commandInfo),
    concurrent: true,
    run: (_, { daemon }) => [...daemon.commands.keys()].map((name) => ({ name })),
  }),
  command({
    name: 'query-qmp-schema',
    topic: 'Monitor',
    doc:
      'Describes every command, event and type. Names of types have no meaning, so look at their ' +
      'structure.',
    args: empty,
    returns: list(any),
    returnsDoc: 'A list of `SchemaInfo`, as QEMU documents it.',
    concurrent: true,
    run: (_, { daemon }) => introspect([...daemon.commands.values()], events),
  }),
  command({
    name: 'quit',
    topic: 'Monitor',
    doc:
      'Ends the daemon: jobs are cancelled, exports ended, nodes closed with all their data ' +
      'written. The answer comes first.',
    args: empty,
    concurrent: true,
    run: (_, { daemon }) => daemon.quit(),
  }),
]
