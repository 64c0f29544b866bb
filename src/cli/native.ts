/**
 * What varve's own commands share, those without a model in QEMU: arguments by commander, errors
 * as one line `varve NAME: …` with exit status 1, Ctrl-C as exit status 130.
 */
import { CommanderError, Command as Program } from 'commander'
import type { CliIo } from './command.ts'
import { version } from './version.ts'
import { print } from './vma/support.ts'

/** The status that a shell gives to a program that Ctrl-C ended. */
export const interruptedStatus = 130

/** The command was interrupted and has cleaned up; the message says what became of its work. */
export class Interrupted extends Error {}

/** An empty command line of `varve NAME`. */
export function nativeProgram(name: string, description: string): Program {
  return new Program(`varve ${name}`)
    .description(description)
    .version(`varve ${name} ${version}`, '-V, --version')
    .showHelpAfterError(false)
}

/** Parses `args`, runs the program's action, and resolves to the exit status. */
export async function runNative(program: Program, args: string[], io: CliIo): Promise<number> {
  program.exitOverride().configureOutput({
    writeOut: (text) => void io.stdout.write(text),
    writeErr: () => {},
  })
  try {
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0
    // A standard error that is gone is no reason to fail differently.
    await print(io.stderr, `${program.name()}: ${sentence(error, program)}\n`).catch(() => {})
    return error instanceof Interrupted ? interruptedStatus : 1
  }
}

function sentence(error: unknown, program: Program): string {
  if (error instanceof CommanderError) {
    const problem = error.message.replace(/^error: /, '').replace(/\.$/, '')
    return oneLine(`${problem}; '${program.name()} --help' shows the usage`)
  }
  return oneLine(error instanceof Error ? error.message : String(error))
}

function oneLine(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, ' ')
}

/** For options that may be given several times. */
export function collect(value: string, former: readonly string[] = []): readonly string[] {
  return [...former, value]
}
