/** Disks that are shown as regular files. */
import { realpath, stat } from 'node:fs/promises'
import { BlockError, errnoOf, invalid, strerror } from '../errors.ts'
import { DescriptorWatch } from '../export/descriptor-watch.ts'
import { DiskFile } from '../export/fuse/disk-file.ts'
import { mountFuse, type OthersMay } from '../export/fuse/mount.ts'
import { FuseSession } from '../export/fuse/session.ts'
import type { Graph } from '../graph/graph.ts'
import { sys } from '../sys/current.ts'
import type { ExportKind, ExportUse } from './exports.ts'

export interface FuseExportOptions {
  /** A regular file, which the disk covers while it is exported. */
  readonly mountpoint: string
  /** Writing behind the end makes the disk larger. */
  readonly growable?: boolean
  /** Whether other users may have rights to the file; `auto` (unless given) if the system permits it. */
  readonly allowOther?: OthersMay
}

export class FuseExports {
  readonly #graph: Graph
  readonly #mountpoints = new Set<string>()
  #watch: DescriptorWatch | undefined

  constructor(graph: Graph) {
    this.#graph = graph
  }

  export(options: FuseExportOptions): ExportKind {
    return {
      type: 'fuse',
      start: (use) => this.#start(use, options),
    }
  }

  async #start(use: ExportUse, { mountpoint, growable = false, ...rest }: FuseExportOptions) {
    if (this.#mountpoints.has(mountpoint)) {
      throw invalid(`There already is a FUSE export on '${mountpoint}'`)
    }
    this.#mountpoints.add(mountpoint)
    try {
      if (growable) await use.attach({ uses: ['resize'] })
      const target = await regularFile(mountpoint)
      const session = await this.#mount(use, target, growable, rest.allowOther ?? 'auto')
      return {
        end: async () => {
          this.#mountpoints.delete(mountpoint)
          await session[Symbol.asyncDispose]()
        },
      }
    } catch (error) {
      this.#mountpoints.delete(mountpoint)
      throw error
    }
  }

  async #mount(
    { node, edge, writable, writethrough }: ExportUse,
    target: string,
    growable: boolean,
    others: OthersMay,
  ): Promise<FuseSession> {
    const mounted = await mountFuse(sys(), target, others)
    const { allowOther } = mounted
    const attachForResize = () =>
      this.#graph.attach(node, { description: 'an unnamed block device', uses: ['resize'] })
    const options = { edge, writable, growable, allowOther, writethrough, attachForResize }
    this.#watch ??= new DescriptorWatch(sys())
    return new FuseSession(sys(), this.#watch, mounted, new DiskFile(options))
  }
}

/** The absolute path of a file that can be covered. */
async function regularFile(mountpoint: string): Promise<string> {
  const facts = await stat(mountpoint).catch((error) => {
    const reason = strerror(errnoOf(error) ?? 'EIO')
    throw new BlockError('IO', `Failed to stat '${mountpoint}': ${reason}`, { cause: error })
  })
  if (!facts.isFile()) throw invalid(`'${mountpoint}' is not a regular file`)
  return await realpath(mountpoint)
}
