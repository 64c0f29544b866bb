/** Ends the command with status 1; printed behind the program's name. */
export class SnapFailure extends Error {
  /** Whether the reader is pointed to `--help`. */
  readonly hint: boolean

  constructor(message: string, hint = false) {
    super(message)
    this.hint = hint
  }
}
