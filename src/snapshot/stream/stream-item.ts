/** What a migration stream consists of, in the order in which it comes. */
import type { RamBlock } from './ram-list.ts'

/** Bytes and records are valid until the next item is asked for. */
export type StreamItem =
  | { readonly kind: 'header'; readonly bytes: Uint8Array }
  | Configuration
  | Command
  | RamList
  | { readonly kind: 'ram'; readonly records: RamRecords }
  /** A PART or the END of the section `ram` is over. */
  | { readonly kind: 'ram-part'; readonly last: boolean; readonly length: number }
  | DeviceSection
  /** The token that ends the stream. */
  | { readonly kind: 'end'; readonly bytes: Uint8Array }
  | { readonly kind: 'description'; readonly text: string; readonly bytes: Uint8Array }

export interface Configuration {
  readonly kind: 'configuration'
  /** `pc-i440fx-7.2` */
  readonly machine: string
  readonly subsections: readonly Subsection[]
  readonly bytes: Uint8Array
}

export interface Subsection {
  readonly name: string
  readonly version: number
  readonly data: Uint8Array
}

export interface Command {
  readonly kind: 'command'
  readonly command: number
  readonly payload: Uint8Array
  readonly bytes: Uint8Array
}

export interface RamList {
  readonly kind: 'ram-list'
  readonly sectionId: number
  readonly blocks: readonly RamBlock[]
  /** Bytes of a target page. */
  readonly pageSize: number
  /** The whole section, footer included. */
  readonly bytes: Uint8Array
}

/** State of one device, all at once. */
export interface DeviceSection {
  readonly kind: 'section'
  readonly sectionId: number
  readonly name: string
  readonly instance: number
  readonly version: number
  /** Its state, without the names around it. */
  readonly body: Uint8Array
  /** The whole section, footer included. */
  readonly bytes: Uint8Array
  /** It came before the first page of RAM, for the loader to read early. */
  readonly early: boolean
}

/** What has arrived together, in order; by number, or as objects. */
export interface RamRecords extends Iterable<RamRecord> {
  readonly length: number
  block(index: number): number
  offset(index: number): number
  kind(index: number): RamRecord['kind']
  data(index: number): Uint8Array
}

/** New content of one target page. */
export interface RamRecord {
  /** Index into the list of blocks. */
  readonly block: number
  /** Bytes in the block. */
  readonly offset: number
  /** `delta`: what has changed in the page since it came last; see `applyDelta`. */
  readonly kind: 'page' | 'zero' | 'delta'
  /** The page or the delta; empty for `zero`. */
  readonly data: Uint8Array
}
