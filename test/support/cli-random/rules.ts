/** Lines that are not run, and differences that are as they should be; each with its reason. */
import type { Judge } from './left-behind.ts'
import type { Answer, Tool } from './programs.ts'
import { stoodStill } from './world.ts'

/** Why a line is not for this test. */
export function unfit(tool: Tool, args: readonly string[]): string | undefined {
  const text = args.join(' ')
  if (tool === 'img') {
    if (args.includes('-') && args.includes('convert')) return 'a stream to us, a file to qemu-img'
    if (args[0] === 'bench' && /(^| )-d ?0/.test(text)) return 'qemu-img never ends'
    if (/^-(T|-trace)/.test(text)) return 'tracing'
    if (args[0] === 'amend' && args.includes('broken')) return 'errors that grow in other ways'
  }
  return undefined
}

/** What is asked of a file that a command has left, besides what it shows. */
export function judgesFor(command: string): readonly Judge[] {
  // How much of an image is copied or zeroed in it is decided in other units.
  const coarse = ['rebase', 'commit', 'convert', 'resize', 'amend'].includes(command)
  return coarse ? ['info', 'check'] : ['info', 'check', 'map']
}

interface Rule {
  readonly why: string
  applies(line: readonly string[], ours: Answer, theirs: Answer): boolean
}

const rules: readonly Rule[] = [
  {
    why: 'a data cluster behind the end of the file is an error, docs/formats/qcow2.md',
    applies: (_, ours) =>
      /behind the end of the file/.test(ours.stderr) ||
      /Sector allocation test failed for/.test(ours.stderr),
  },
  {
    why: 'the clock that it times the derivation of keys by stood still',
    applies: (_, __, theirs) => theirs.stderr.includes(stoodStill),
  },
  {
    why: 'it dies, or takes longer than anybody waits',
    applies: (_, __, theirs) => /^SIG(ABRT|FPE|SEGV|TERM)$/.test(String(theirs.status)),
  },
  {
    why: 'it fails with status 0',
    applies: (_, ours, theirs) =>
      /Cannot use --target-is-zero/.test(ours.stderr) && theirs.status === 0,
  },
  {
    why: 'check -r with snapshots and bitmaps keeps the snapshots, docs/cli/img.md',
    applies: ([command, ...words]) => command === 'check' && words.some((w) => /snapmaps/.test(w)),
  },
  {
    why: 'a chain that leads back to where it began is refused, docs/cli/img.md',
    applies: (_, ours) => /creates an infinite loop|Failed to get shared/.test(ours.stderr),
  },
  {
    why: 'options of drivers are checked before the file is looked at',
    applies: (_, ours, theirs) =>
      /do(?:es not|esn't) support the option|does not accept value|expects 'on' or 'off'|Unsupported value/.test(
        ours.stderr,
      ) &&
      ours.status === theirs.status &&
      /Could not open|can't open/.test(theirs.stderr),
  },
  {
    why: 'an image with a temporary overlay cannot be reopened, docs/cli/io.md',
    applies: (_, ours) => /with a temporary overlay cannot be reopened/.test(ours.stderr),
  },
  {
    why: 'its bitmaps are lost when a disk becomes empty',
    applies: (_, __, theirs) => /Lost persistent bitmaps during inactivation/.test(theirs.stderr),
  },
  {
    why: 'which of two complaints comes first: size, preallocation, compression, options of `open`',
    applies: (line, ours, theirs) =>
      line.some((word) => /^(t|truncate) -m|^(w|write) .*-\w*c|^open /.test(word)) &&
      /The new size must be a multiple|write failed: Operation not supported|short-form boolean/.test(
        theirs.stderr + theirs.stdout,
      ) &&
      ours.status === theirs.status,
  },
  {
    why: 'nothing is written to where refcounts are broken',
    applies: (line, ours) => line.some((word) => /broken/.test(word)) && ours.status === 1,
  },
  {
    why: 'which of several complaints comes first: -U, what a driver needs, and what `reopen` can change',
    applies: (_, ours, theirs) =>
      (/force-share=on can only/.test(theirs.stderr) &&
        /can't open|Could not open/.test(ours.stderr)) ||
      /Cannot change the option|Please specify a throttle group/.test(ours.stderr) ||
      /'backing-fmt' does not accept value/.test(theirs.stderr) ||
      /does not accept value '.*'\n$|used for shrinking an image/.test(ours.stderr) ||
      /Backing format cannot be used without|is unexpected\n|are mutually exclusive\n/.test(
        ours.stderr,
      ) ||
      /must be specified only once/.test(theirs.stderr) ||
      /'data-file' can only|smaller than input file|Invalid cache option|cannot be resized|does not support size measurement/.test(
        ours.stderr,
      ) ||
      /is not a valid pattern byte/.test(theirs.stdout + ours.stdout) ||
      /concatenating multiple snapshot|: Is a directory\n$/.test(ours.stderr) ||
      /data-file can only be set|^qemu-img: --output must be/.test(theirs.stderr),
  },
  {
    why: 'the largest size of all is not told from 2^63',
    applies: (line) => line.some((word) => /9223372036854775807|18446744073709551615/.test(word)),
  },
  {
    why: 'clusters that have data can be compressed again, docs/cli/io.md',
    applies: (line) => line.some((word) => /^w.* -\w*c/.test(word)),
  },
  {
    why: 'an image with a data file has no place for the state of a machine',
    applies: (line) => line.some((word) => /^(w|write|r|read) .*-\w*b/.test(word)),
  },
  {
    why: 'offsets below zero are refused at once, not taken for large ones',
    applies: (line, ours) => /Invalid offset '-1'/.test(ours.stderr) && line.includes('-o'),
  },
  {
    why: 'reopen: words without a value, files that a direct mode cannot fill, images in need of repair',
    applies: (line, _, theirs) =>
      line.some((word) => word.startsWith('reopen')) &&
      /short-form boolean|Could not write zeros for preall|preparing to reopen/.test(theirs.stderr),
  },
  {
    why: 'an image with bitmaps does not become one of version 2, docs/cli/img.md',
    applies: (_, ours) => /Cannot downgrade an image with persistent bitmaps/.test(ours.stderr),
  },
  {
    why: 'images of version 2 can grow where their backing file is longer, docs/cli/img.md',
    applies: (_, __, theirs) => /Failed to zero out new clusters/.test(theirs.stderr),
  },
  {
    why: 'a server has no more space, which QEMU calls an invalid argument, or an error',
    applies: (_, ours, theirs) =>
      /No space left on device|is full and cannot grow/.test(ours.stdout + ours.stderr) &&
      /Invalid argument|Input\/output error/.test(theirs.stdout),
  },
  {
    why: 'names that are made of the address of a server and a relative name',
    applies: (_, __, theirs) => /No valid URL specified/.test(theirs.stderr),
  },
  {
    why: 'every image has a dirty flag',
    applies: (_, __, theirs) => /"format": "null-co"/.test(theirs.stdout),
  },
  {
    why: 'disks end at 8 PiB, docs/limits.md',
    applies: (_, ours, theirs) => /is not a size in bytes/.test(ours.stderr) && theirs.status === 1,
  },
]

/** Why this difference stays. */
export function accepted(
  line: readonly string[],
  ours: Answer,
  theirs: Answer,
): string | undefined {
  if (
    ours.status === theirs.status &&
    ours.stderr === theirs.stderr &&
    ours.stdout === theirs.stdout
  )
    return undefined
  return rules.find((rule) => rule.applies(line, ours, theirs))?.why
}

/** Why files may differ after a line that both have answered in the same way. */
export function acceptedFiles(line: readonly string[], found: string): string | undefined {
  if (line[0] !== 'resize') return undefined
  if (/: check: ours 0/.test(found) && /theirs 3/.test(found)) {
    return 'what shrinking leaves of a state of a machine is not freed'
  }
  return /"compressed-clusters"/.test(found) ? 'a cluster that is cut is stored anew' : undefined
}
