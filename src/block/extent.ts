import type { Extent } from './layer.ts'

/** Two neighbouring runs as one, or undefined when their status or place differs. */
export function joinExtents(run: Extent, next: Extent): Extent | undefined {
  if (run.kind !== next.kind || run.offset + run.length !== next.offset) return undefined
  const length = run.length + next.length
  if (run.kind === 'encoded' || run.kind === 'backing') return { ...run, length }
  const other = next as typeof run
  if (run.kind === 'zero' && run.allocated !== (other as typeof run).allocated) return undefined
  if (!run.host && !other.host) return { ...run, length }
  return joinHosts(run, other, length)
}

function joinHosts<E extends Extent & { kind: 'data' | 'zero' }>(
  run: E,
  next: E,
  length: number,
): E | undefined {
  const { host } = run
  const other = next.host
  if (!host || !other || host.layer !== other.layer || host.writable !== other.writable) return
  if (host.sparse !== other.sparse) return
  if (host.offset + host.length !== other.offset) return
  return { ...run, length, host: { ...host, length } }
}
