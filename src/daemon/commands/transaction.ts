/** `transaction`: several actions in one moment, all of them or none. */
import { BlockError } from '../../errors.ts'
import { JobTransaction } from '../../job/transaction.ts'
import { type Action, action, runSteps, type Step } from '../action.ts'
import { command } from '../command.ts'
import { empty, enumeration, list, object, optional, required, union } from '../schema/types.ts'
import { backupActions } from './backup.ts'
import { bitmapActions } from './bitmaps.ts'
import { externalSnapshotActions } from './external-snapshots.ts'
import { internalSnapshotActions } from './snapshots.ts'

const abort = action<object>({
  type: 'abort',
  args: empty,
  beginsJob: true,
  nodes: () => [],
  async prepare() {
    throw new BlockError('INVALID_ARGUMENT', 'Transaction aborted using Abort action')
  },
})

const actions = new Map(
  [
    abort,
    ...backupActions,
    ...bitmapActions,
    ...externalSnapshotActions,
    ...internalSnapshotActions,
  ].map((each) => [each.type, each]),
)

const transactionAction = union(
  'TransactionAction',
  {
    type: required(enumeration('TransactionActionKind', [...actions.keys()]), 'What to do.'),
  },
  'type',
  () =>
    Object.fromEntries(
      [...actions].map(([type, { args }]) => [
        type,
        object(`${args.name}Wrapper`, { data: required(args, 'The arguments of the command.') }),
      ]),
    ),
)

const completionMode = enumeration('ActionCompletionMode', ['individual', 'grouped'])

export const transactionCommands = [
  command({
    name: 'transaction',
    topic: 'Block nodes',
    doc:
      'Does several things in one moment: guests of all nodes concerned wait meanwhile. When one ' +
      'of them fails, everything is as before. Jobs that it begins end alike with ' +
      '`completion-mode` `grouped`: when one fails or is cancelled, all others are.',
    args: object('TransactionArg', {
      actions: required(list(transactionAction), 'What to do, in this order.'),
      properties: optional(
        object('TransactionProperties', {
          'completion-mode': optional(completionMode, '`individual` unless given.'),
        }),
        'How the jobs end.',
      ),
    }),
    async run({ actions: wanted, properties = {} }, { daemon }) {
      const steps = (wanted as readonly { type: string; data: unknown }[]).map(
        ({ type, data }): Step => ({ action: actions.get(type) as Action, args: data }),
      )
      const grouped = properties['completion-mode'] === 'grouped'
      await runSteps(daemon, steps, grouped ? new JobTransaction() : undefined)
    },
  }),
]
