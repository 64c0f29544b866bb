/** `varve/qmp`: a storage daemon to embed, and a client for the monitors of one. */
export { StorageDaemon, type StorageDaemonOptions } from './daemon/storage-daemon.ts'
export {
  QmpClient,
  type QmpClientOptions,
  QmpCommandError,
  type QmpEvent,
} from './wire/qmp/client.ts'
