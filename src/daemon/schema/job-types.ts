/** Types that commands and events about jobs share. */
import { enumeration } from './types.ts'

export const jobStatus = enumeration('JobStatus', [
  'undefined',
  'created',
  'running',
  'paused',
  'ready',
  'standby',
  'waiting',
  'pending',
  'aborting',
  'concluded',
  'null',
])

export const jobType = enumeration('JobType', [
  'commit',
  'stream',
  'mirror',
  'backup',
  'create',
  'amend',
  'snapshot-load',
  'snapshot-save',
  'snapshot-delete',
])

export const ioStatus = enumeration('BlockDeviceIoStatus', ['ok', 'failed', 'nospace'])
