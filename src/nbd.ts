/** `varve/nbd`: serving disks over NBD. */
export type { ExportOptions } from './export/nbd/export.ts'
export { NbdServer, type NbdServerOptions } from './export/nbd/server.ts'
