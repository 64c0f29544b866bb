/** The text of docs/qmp-reference.md. */
import { commands } from './commands/table.ts'
import { events } from './events.ts'
import { manual } from './schema/manual.ts'

export function manualText(): string {
  return manual([...commands.values()], events)
}
