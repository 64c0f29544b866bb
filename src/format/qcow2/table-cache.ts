/**
 * Tables kept in memory, up to a number. Which one goes is decided by the clock: a hand goes round
 * and drops the first table that was not used since it last came by. Tables with changes, or in
 * use, stay, for their users to write or release.
 */
import type { Table } from './table.ts'

interface Loading {
  readonly table: Promise<Table>
  waiting: number
}

export class TableCache {
  /** By cluster number of the table. */
  readonly #tables = new Map<number, Table>()
  readonly #ring: { key: number; table: Table }[] = []
  readonly #loading = new Map<number, Loading>()
  #hand = 0
  #capacity: number

  /** `capacity`: number of tables, at least one. */
  constructor(capacity: number) {
    this.#capacity = Math.max(1, capacity)
  }

  get size(): number {
    return this.#tables.size
  }

  get capacity(): number {
    return this.#capacity
  }

  set capacity(capacity: number) {
    this.#capacity = Math.max(1, capacity)
  }

  get(key: number): Table | undefined {
    const table = this.#tables.get(key)
    if (table) table.used = true
    return table
  }

  /** Whether one more table fits, after dropping one if need be. */
  hasRoom(): boolean {
    if (this.#tables.size < this.#capacity) return true
    // Two rounds: the first may only find that everything was used lately.
    for (let steps = this.#ring.length * 2; steps > 0; steps--) {
      if (this.#hand >= this.#ring.length) this.#hand = 0
      const { key, table } = this.#ring[this.#hand]
      if (table.dirty || table.pins > 0) {
        this.#hand++
      } else if (table.used) {
        table.used = false
        this.#hand++
      } else {
        this.#remove(this.#hand, key)
        return this.#tables.size < this.#capacity
      }
    }
    return false
  }

  /** Adds a table, over the limit if `hasRoom` found nothing to drop. */
  add(key: number, table: Table): void {
    this.drop(key)
    this.#tables.set(key, table)
    this.#ring.push({ key, table })
  }

  /** Forgets a table, changes and all. */
  drop(key: number): void {
    const table = this.#tables.get(key)
    if (table)
      this.#remove(
        this.#ring.findIndex((entry) => entry.table === table),
        key,
      )
  }

  /**
   * The table of that key, read once however many ask for it at the same time. It comes pinned, so
   * that a crowd in a small cache does not throw out each other's tables before looking at them.
   */
  load(key: number, read: () => Promise<Table>): Promise<Table> {
    const table = this.get(key)
    if (table) {
      table.pins++
      return Promise.resolve(table)
    }
    const loading = this.#loading.get(key)
    if (loading) {
      loading.waiting++
      return loading.table
    }
    return this.#load(key, read)
  }

  /** Forgets all tables, changes and all. */
  clear(): void {
    this.#tables.clear()
    this.#ring.length = 0
    this.#hand = 0
  }

  /** Drops what nobody used since the last call. */
  dropUnused(): void {
    for (const { key, table } of [...this.#ring]) {
      if (!table.used && !table.dirty && table.pins === 0) this.drop(key)
      table.used = false
    }
  }

  /** All tables, in no particular order. */
  tables(): Iterable<Table> {
    return this.#tables.values()
  }

  #load(key: number, read: () => Promise<Table>): Promise<Table> {
    const loaded = read().then(
      (table) => {
        this.#loading.delete(key)
        table.pins += loading.waiting
        this.add(key, table)
        return table
      },
      (error) => {
        this.#loading.delete(key)
        throw error
      },
    )
    const loading: Loading = { table: loaded, waiting: 1 }
    this.#loading.set(key, loading)
    return loaded
  }

  #remove(position: number, key: number): void {
    this.#tables.delete(key)
    const last = this.#ring.pop()!
    if (position < this.#ring.length) this.#ring[position] = last
  }
}
