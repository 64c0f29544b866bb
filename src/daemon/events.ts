/** The events that monitors are told of: name, data and meaning, one table. */
import { jobStatus, jobType } from './schema/job-types.ts'
import {
  bool,
  enumeration,
  int,
  type ObjectType,
  object,
  optional,
  required,
  str,
  uint64,
} from './schema/types.ts'

export interface EventDefinition {
  readonly name: string
  readonly doc: string
  readonly data: ObjectType
}

const ioOperation = enumeration('IoOperationType', ['read', 'write'])
const errorAction = enumeration('BlockErrorAction', ['ignore', 'report', 'stop'])

const blockJob = {
  type: required(jobType, 'Kind of the job.'),
  device: required(str, 'Its id.'),
  len: required(int, 'Bytes that it has to do.'),
  offset: required(int, 'Bytes that it has done.'),
  speed: required(int, 'Its limit in bytes a second; 0 is no limit.'),
}

export const events: readonly EventDefinition[] = [
  {
    name: 'JOB_STATUS_CHANGE',
    doc: 'A job has another status; `null` is its end.',
    data: object('JobStatusChangeData', {
      id: required(str, 'The job.'),
      status: required(jobStatus, 'Its new status.'),
    }),
  },
  {
    name: 'BLOCK_JOB_COMPLETED',
    doc: 'A job has ended by itself; with `error` when it failed.',
    data: object('BlockJobCompletedData', {
      ...blockJob,
      error: optional(str, 'Why it failed.'),
    }),
  },
  {
    name: 'BLOCK_JOB_READY',
    doc: 'The copy of a job is complete, and kept so: it can be completed.',
    data: object('BlockJobReadyData', blockJob),
  },
  {
    name: 'BLOCK_JOB_CANCELLED',
    doc: 'A job was cancelled and has taken back what it did.',
    data: object('BlockJobCancelledData', blockJob),
  },
  {
    name: 'BLOCK_JOB_ERROR',
    doc: 'A request of a job failed.',
    data: object('BlockJobErrorData', {
      device: required(str, 'The job.'),
      operation: required(ioOperation, 'What failed.'),
      action: required(errorAction, 'What the job does about it, as its error policies say.'),
    }),
  },
  {
    name: 'BLOCK_JOB_PENDING',
    doc: 'A job has done its work and waits for `job-finalize`.',
    data: object('BlockJobPendingData', {
      type: required(jobType, 'Kind of the job.'),
      id: required(str, 'The job.'),
    }),
  },
  {
    name: 'BLOCK_IMAGE_CORRUPTED',
    doc: 'An image was found corrupt while it was in use; it is marked, and until it is closed nobody reads or writes it any more.',
    data: object('BlockImageCorruptedData', {
      device: required(str, 'Empty: there are no device names.'),
      'node-name': optional(str, 'The node.'),
      msg: required(str, 'What was found.'),
      offset: optional(int, 'Byte of the file.'),
      size: optional(int, 'Bytes that were not written.'),
      fatal: required(bool, 'True: the image cannot be used further.'),
    }),
  },
  {
    name: 'BLOCK_IO_ERROR',
    doc: "A guest's request failed. Never sent: clients of exports are told themselves.",
    data: object('BlockIoErrorData', {
      device: required(str, 'The device.'),
      'node-name': optional(str, 'The node.'),
      operation: required(ioOperation, 'What failed.'),
      action: required(errorAction, 'What is done about it.'),
      nospace: optional(bool, 'Whether space was lacking.'),
      reason: required(str, 'Why.'),
    }),
  },
  {
    name: 'VSERPORT_CHANGE',
    doc: 'A guest has opened or closed a port of its virtual serial device. Never sent: no guests.',
    data: object('VserportChangeData', {
      id: required(str, 'The port.'),
      open: required(bool, 'Whether it is open now.'),
    }),
  },
  {
    name: 'BLOCK_WRITE_THRESHOLD',
    doc: 'A write went beyond what `block-set-write-threshold` has set, which holds no more.',
    data: object('BlockWriteThresholdData', {
      'node-name': required(str, 'The node.'),
      'amount-exceeded': required(uint64, 'Bytes beyond the threshold.'),
      'write-threshold': required(uint64, 'The threshold.'),
    }),
  },
  {
    name: 'QUORUM_FAILURE',
    doc: 'Too few children of a quorum node could do a request, or agreed about it.',
    data: object('QuorumFailureData', {
      reference: required(str, 'The quorum node.'),
      'sector-num': required(int, 'First sector of the request.'),
      'sectors-count': required(int, 'Sectors of the request.'),
    }),
  },
  {
    name: 'QUORUM_REPORT_BAD',
    doc: 'A child of a quorum node failed, or said something else than the others.',
    data: object('QuorumReportBadData', {
      type: required(enumeration('QuorumOpType', ['read', 'write', 'flush']), 'The request.'),
      error: optional(str, 'Why it failed; absent where the child was outvoted.'),
      'node-name': required(str, 'The child.'),
      'sector-num': required(int, 'First sector of the request.'),
      'sectors-count': required(int, 'Sectors of the request.'),
    }),
  },
  {
    name: 'BLOCK_EXPORT_DELETED',
    doc: 'An export is gone, and its node free.',
    data: object('BlockExportDeletedData', { id: required(str, 'The export.') }),
  },
]
