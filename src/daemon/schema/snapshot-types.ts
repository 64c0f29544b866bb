/** What is told of an internal snapshot. */
import { int, list, object, optional, required, str } from './types.ts'

export const snapshotInfoType = object('SnapshotInfo', {
  id: required(str, 'Its id.'),
  name: required(str, 'Its name.'),
  'vm-state-size': required(int, "Bytes of the machine's state that it has."),
  'date-sec': required(int, 'When it was taken: seconds since 1970,'),
  'date-nsec': required(int, 'and nanoseconds.'),
  'vm-clock-sec': required(int, 'How long the machine had run then: seconds,'),
  'vm-clock-nsec': required(int, 'and nanoseconds.'),
  icount: optional(int, 'Instructions that it had executed, where they were counted.'),
})

export const snapshotInfoList = list(snapshotInfoType)
