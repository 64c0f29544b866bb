/** Where QEMU and this process meet: a socket in a folder that only the user sees. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface MeetingPlace extends AsyncDisposable {
  readonly path: string
}

/** `chosen`: a path of the user's, who sees to it that QEMU can reach it. */
export async function meetingPlace(chosen: string | undefined): Promise<MeetingPlace> {
  if (chosen !== undefined) return { path: chosen, async [Symbol.asyncDispose]() {} }
  const folder = await mkdtemp(join(tmpdir(), 'varve-snap-'))
  return {
    path: join(folder, 'stream.sock'),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}
