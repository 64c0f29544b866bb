/**
 * `npm run bench [-- --only NAME] [--runs N] [--rest SECONDS] [--quick] [--json]`: varve and Debian's tools in turn on
 * the same work. Prints a table of medians and ratios; a ratio above 1 is in our favour.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { Comparison } from './pairs.ts'
import { run } from './process.ts'
import { backupLatency } from './rows/backup-latency.ts'
import { compress } from './rows/compress.ts'
import { convert } from './rows/convert.ts'
import { fuse } from './rows/fuse.ts'
import { img } from './rows/img.ts'
import { jobs } from './rows/jobs.ts'
import { nbd } from './rows/nbd.ts'
import { nbdTls } from './rows/nbd-tls.ts'
import { qcow2Write } from './rows/qcow2-write.ts'
import type { Row } from './rows/row.ts'
import { snap } from './rows/snap.ts'
import { vhostUser } from './rows/vhost-user.ts'

const rows: readonly Row[] = [
  convert,
  compress,
  img,
  jobs,
  backupLatency,
  nbd,
  nbdTls,
  fuse,
  vhostUser,
  qcow2Write,
  snap,
]

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    runs: { type: 'string', default: '5' },
    rest: { type: 'string', default: '0' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    folder: { type: 'string', default: os.tmpdir() },
  },
})

const folder = await mkdtemp(path.join(values.folder, 'varve-bench-'))
try {
  if (!values.json) await printHeading()
  for (const row of rows) {
    if (values.only && !values.only.includes(row.name)) continue
    await run('sync', [])
    const options = {
      folder,
      runs: Number(values.runs),
      rest: Number(values.rest),
      quick: values.quick,
    }
    for await (const comparison of row.measure(options)) {
      console.log(values.json ? JSON.stringify(comparison) : tableLine(comparison))
    }
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function printHeading(): Promise<void> {
  const { stdout } = await run('qemu-img', ['--version'])
  const version = /version (\S+)/.exec(stdout)?.[1]
  const [cpu] = os.cpus()
  const date = new Date().toISOString().slice(0, 10)
  console.log(
    `${date}, ${os.cpus().length} × ${cpu.model}, Node ${process.versions.node}, QEMU ${version}, ` +
      `medians of ${values.runs} pairs\n`,
  )
  console.log('| work | varve | QEMU | unit | ratio (lowest – highest) |')
  console.log('|---|---:|---:|---|---:|')
}

function tableLine(comparison: Comparison): string {
  const { name, ours, peer, unit, ratio, lowestRatio, highestRatio } = comparison
  const range = `${lowestRatio.toFixed(2)} – ${highestRatio.toFixed(2)}`
  return `| ${name} | ${figure(ours)} | ${figure(peer)} | ${unit} | **${ratio.toFixed(2)}** (${range}) |`
}

function figure(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3)
}
