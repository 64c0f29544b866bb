/** `--trace`: checked as QEMU does, and of no effect, since nothing here has events of those names. */
import { closeSync, openSync } from 'node:fs'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'
import { HelpAsked } from './help.ts'

const names = ['enable', 'events', 'file']
const help = ['help', '?']

/** What is printed before messages about the option. */
type Say = (message: string) => void

export function takeTrace(argument: string, say: Say, io: NamedIo): void {
  const { options, shortForms } = parseOptionString(argument, 'enable')
  // The events that there are: none.
  if (help.includes(options.enable)) throw new HelpAsked('')
  if (shortForms.some(({ written }) => help.includes(written))) {
    throw new HelpAsked(`trace options:\n${names.map((name) => `  ${name}=<str>\n`).join('')}`, 1)
  }
  for (const { written, meaning } of shortForms) {
    say(`warning: short-form boolean option '${written}' deprecated\nPlease use ${meaning} instead`)
  }
  const unknown = Object.keys(options).find((name) => !names.includes(name))
  if (unknown !== undefined) {
    throw new BlockError('INVALID_ARGUMENT', `Invalid parameter '${unknown}'`, { errno: 'EINVAL' })
  }
  const { enable, events } = options
  if (enable !== undefined && !enable.includes('*')) {
    say(`warning: trace event '${enable}' does not exist`)
  }
  if (events !== undefined) checkEvents(events, io)
}

/** Names of events, which are not looked at any further. */
function checkEvents(filename: string, { program, stderr }: NamedIo): void {
  try {
    closeSync(openSync(filename, 'r'))
  } catch (error) {
    stderr.write(`${program}:${filename}: ${strerror(errnoOf(error) ?? 'EIO')}\n`)
    throw new HelpAsked('', 1)
  }
}
