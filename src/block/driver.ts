/** How a driver presents itself to the graph: its name, its options, and how it opens. */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { ByteRange } from '../bytes/range.ts'
import type { TlsCredentials } from '../tls/credentials.ts'
import type { StoredBitmap } from './abilities.ts'
import type { BlockLayer, Io } from './layer.ts'
import type { ChildRole, Permissions } from './permission.ts'
import type { ThrottleGroup } from './throttle-group.ts'

/** A node by name, or the options of a node to be opened for this purpose alone. */
export type NodeReference = string | NodeOptions

/**
 * Options as `blockdev-add` takes them. Those that every node has (`node-name`, `read-only`,
 * `cache`, `discard`, `detect-zeroes`, …) are taken out by the graph; the driver parses the rest.
 */
export interface NodeOptions {
  /** The driver's name; left out, the image is probed where the caller permits that. */
  readonly driver?: string
  readonly [option: string]: unknown
}

/** Bytes of the `secret` object of that id; rejects with `INVALID_ARGUMENT` when there is none. */
export type SecretSource = (id: string) => Promise<Uint8Array>

export interface OpenFlags {
  readonly readOnly: boolean
  /** `cache.direct`: bypass the page cache. */
  readonly direct: boolean
  /** `cache.no-flush`: flushes are ignored; for data that may be lost. */
  readonly noFlush: boolean
  /** Take no locks against other writers, and accept that what is read may change. */
  readonly forceShare: boolean
  /**
   * Opened to be checked: nothing is repaired on opening, and an image that is marked as corrupt
   * may be opened for writing all the same.
   */
  readonly check?: boolean
  /** Only facts are asked for, no data: encrypted images open without their key. */
  readonly noIo?: boolean
}

/** A chain of images, from one down to another. */
export interface ChainProbe {
  /** The first run at `offset`, and whether any image of the chain has it allocated. */
  extentAt(
    offset: number,
    length: number,
    io: Io,
  ): Promise<{ readonly length: number; readonly allocated: boolean }>
  /** The chain stays as it is until this is called. */
  release(): void
}

export interface OpenContext extends Io {
  /** Name of the node being opened, for messages. */
  readonly name: string
  readonly flags: OpenFlags
  /**
   * Opens, or finds, a child that the user named. Closed by the graph, not by the layer. It is
   * called as its role unless it gets another name.
   */
  child(role: ChildRole, reference: NodeReference, name?: string): Promise<BlockLayer>
  /**
   * Opens a child that the image names. The open policy may refuse it with `PERMISSION`.
   * `filename` is as recorded, relative names being relative to the image (of data files to the current
   * folder, first); `format` is the recorded driver, probed when undefined.
   */
  implied(role: ChildRole, filename: string, format: string | undefined): Promise<BlockLayer>
  /** Tells people what they should know of an image that is opened all the same. */
  warn?(message: string): void
  /** A dirty bitmap of a node, to be read at this moment; throws when there is none. */
  bitmap?(node: string, name: string): DirtyBitmap
  readonly secrets?: SecretSource
  /** The throttle group of that id; undefined when there is none. */
  readonly throttleGroup?: (id: string) => ThrottleGroup | undefined
  /** A client's credentials of that id; throws when there are none. */
  readonly tlsCredentials?: (id: string) => TlsCredentials
  /** The chain from a child of this node down to, and with, the image `bottom`. */
  readonly chain?: (child: BlockLayer, bottom: string) => ChainProbe
}

/** How nodes of a driver are called where people are shown file names. */
export interface Naming {
  /** Its own options that make it another disk; with one of them the name is `json:{…}`. */
  readonly strong: readonly string[]
  /**
   * The plain name: the child's unless given, or none, or made of the strong options and the plain
   * names of children. Or the child's name, whatever that is, plain or not; those above show it whole.
   */
  readonly plain?:
    | 'none'
    | 'child'
    | ((strong: NodeOptions, child: (name: string) => string | undefined) => string | undefined)
}

export interface BlockDriver<Options = unknown, CreateOptions = unknown> {
  /** `qcow2`, `throttle`: as in QEMU. */
  readonly name: string
  readonly kind: 'protocol' | 'format' | 'filter'
  /** Checks and types the driver's own options; throws `INVALID_ARGUMENT`. */
  parse(options: NodeOptions): Options
  /** Whether an image that begins with these bytes (at least 512, or the whole) is of this format. */
  probe?(head: Uint8Array): boolean
  /** Options for a file name or URL that belongs to this protocol, or undefined. */
  parseFilename?(filename: string): NodeOptions | undefined
  /**
   * How sure a protocol is that a path is a device of its kind; 0 where it is none. The surest one
   * opens it, and a plain file where there is none.
   */
  probeDevice?(path: string): number
  /** What it uses and shares of its children while it is opened, where that is not as usual for their role. */
  readonly opening?: Permissions
  /** Unless given, nodes are called as what they lie in, or as their layer says. */
  readonly naming?: Naming
  /** On failure everything that it opened itself is closed again. */
  open(options: Options, context: OpenContext): Promise<BlockLayer>
  /**
   * Names of its own options that can change while a layer is open, by the layer's `reopen`.
   * Absent: nothing can, not even whether it is read-only.
   */
  readonly changeable?: readonly string[]
  /** Of these, those that cannot be left out again once they were given. */
  readonly lasting?: readonly string[]
  readonly creator?: ImageCreator<CreateOptions>
  /** Nobody makes such storage here: a new image goes into what is there, of which it takes the beginning. */
  readonly createsInPlace?: boolean
  /** What `amend -o help` lists; absent where an image's options cannot be changed. */
  readonly amendOptions?: readonly CreateOptionInfo[]
}

/** Making new images. Separate from opening: the two have few options in common. */
export interface ImageCreator<CreateOptions> {
  /** What `create -o help` lists, in its order. */
  readonly options: readonly CreateOptionInfo[]
  /** Names of options, the storage's by right, that are for this format where it lies on one. */
  readonly takesOver?: readonly string[]
  /** Checks and types; values may be typed (QMP) or text (`-o name=value`). */
  parse(options: Readonly<Record<string, unknown>>): CreateOptions
  /** Formats get a writable child `file`; protocols make the file itself. */
  create(options: CreateOptions, context: CreateContext): Promise<void>
  /**
   * What an image will need; see `Measurement`. Options as `parse` takes them: only those that make
   * a difference are judged.
   */
  measure?(
    options: Readonly<Record<string, unknown>>,
    source: MeasuredSource,
    io: Io,
  ): Promise<Measurement>
}

/** The disk that a measured image is to hold. */
export interface MeasuredSource {
  /** Bytes. */
  readonly size: number
  /** The parts that are data, in order; undefined for a disk that is new. */
  readonly data?: AsyncIterable<ByteRange> | Iterable<ByteRange>
  /** Persistent bitmaps that come along; undefined where the source can have none. */
  readonly bitmaps?: readonly StoredBitmap[]
}

/** Bytes of the image file, as `qemu-img measure` has them. */
export interface Measurement {
  readonly required: number
  readonly fullyAllocated: number
  /** Additional bytes for the source's bitmaps, where the format can keep them. */
  readonly bitmaps?: number
}

export interface CreateContext extends Io {
  /** The storage that a format writes its image into; absent for protocols. */
  readonly file?: BlockLayer
  /** A separate data file, where one was asked for. */
  readonly dataFile?: BlockLayer
  readonly secrets?: SecretSource
}

export interface CreateOptionInfo {
  readonly name: string
  readonly type: 'size' | 'str' | 'bool' | 'num'
  readonly description: string
  readonly defaultText?: string
}
