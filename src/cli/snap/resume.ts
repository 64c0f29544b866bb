/** `varve snap resume`: brings a snapshot into a waiting QEMU by its monitor, start to end. */
import { neverAborted } from '../../block/layer.ts'
import { checkWaiting, resumeSnapshot } from '../../snapshot/control/resume.ts'
import { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import { QmpClient } from '../../wire/qmp/client.ts'
import type { NamedIo } from '../command.ts'
import type { SnapArguments } from './arguments.ts'
import { openSnapshotImage } from './image.ts'
import { loadOver } from './load.ts'
import { meetingPlace } from './meeting-place.ts'

export async function resume(settings: SnapArguments, io: NamedIo): Promise<number> {
  const { qmp: monitor = '', cache, postcopy, keepPaused } = settings
  const [filename] = settings.files
  const signal = io.signal ?? neverAborted
  await using image = await openSnapshotImage(filename, io, { readOnly: true, cache })
  const snapshot = await SnapshotReader.open(image)
  await using qmp = await QmpClient.connect(monitor, { signal })
  await checkWaiting(qmp, snapshot)
  await using place = await meetingPlace(settings.socket)
  const uri = `unix:${place.path}`
  const summary = await resumeSnapshot(qmp, {
    ...{ postcopyPercent: postcopy, uri, keepPaused, signal },
    load: () => loadOver(snapshot, { ...settings, uri }, io),
  })
  const { requests, runningAfterMs } = summary
  const when = runningAfterMs === undefined ? 'paused' : `running after ${runningAfterMs} ms`
  const text = settings.json
    ? JSON.stringify({ file: filename, ...summary })
    : `${filename}: ${when}${postcopy === undefined ? '' : `, ${requests} requests for pages`}`
  io.stdout.write(`${text}\n`)
  return 0
}
