/** Ends the command with status 1; printed behind the program's name. */
export class NbdFailure extends Error {
  /** How the reader is pointed to `--help`: the two ways that qemu-nbd has. */
  readonly hint: 'none' | 'plain' | 'named'

  constructor(message: string, hint: 'none' | 'plain' | 'named' = 'none') {
    super(message)
    this.hint = hint
  }
}
