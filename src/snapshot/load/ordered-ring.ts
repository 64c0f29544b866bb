/**
 * The pipeline of everything that reads ahead and consumes in order (archives, conversions, RAM
 * snapshots): a bounded number of requests in flight, completed in any order, handed out in the
 * order in which they were begun. Each has a slot, whose buffers are its own until the consumer
 * asks for the next result. What is there at once is handed out before more is begun. The first
 * failure ends it, once nothing is in flight any more.
 */
export async function* orderedRing<Item, Result>(
  items: Iterable<Item> | AsyncIterable<Item>,
  depth: number,
  start: (item: Item, slot: number) => Result | Promise<Result>,
): AsyncGenerator<Result, void> {
  const source =
    Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]()
  const flying: { readonly slot: number; readonly result: Result | Promise<Result> }[] = []
  const free = Array.from({ length: depth }, (_, index) => index)
  let ended = false
  try {
    for (;;) {
      while (!ended && free.length > 0) {
        const next = await source.next()
        if (next.done) {
          ended = true
          break
        }
        const slot = free.pop() as number
        const result = start(next.value, slot)
        if (result instanceof Promise) {
          // It may fail before its turn comes.
          result.catch(() => {})
        } else if (flying.length === 0) {
          yield result
          free.push(slot)
          continue
        }
        flying.push({ slot, result })
      }
      const first = flying.shift()
      if (!first) return
      try {
        yield await first.result
      } finally {
        free.push(first.slot)
      }
    }
  } finally {
    await Promise.allSettled(flying.map(({ result }) => result))
    await source.return?.()
  }
}
