/** Ends a command: the message is printed behind the program's name. */
export class CommandFailure extends Error {
  /** Exit status. */
  readonly status: number
  /** Whether the reader is pointed to `--help`. */
  readonly hint: boolean

  constructor(message: string, status = 1, hint = false) {
    super(message)
    this.status = status
    this.hint = hint
  }
}

/** The command line makes no sense. */
export function usageFailure(message: string): CommandFailure {
  return new CommandFailure(message, 1, true)
}

/** The message of an error, with the line of advice that some have. */
export function messageOf(error: Error): string {
  return 'hint' in error ? `${error.message}\n${error.hint}` : error.message
}

/** `-h` was among a command's options. The message, if there is one, is said before. */
export class HelpRequest extends Error {}
