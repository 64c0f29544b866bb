/** What `varve img --help` prints. */
import { drivers } from '../../drivers.ts'

const commands = [
  'amend [-q] [-p] [-f FMT | --image-opts] [-t CACHE] [--force] -o OPTIONS FILE',
  'bench [-c COUNT] [-d DEPTH] [-f FMT | --image-opts] [--flush-interval=COUNT] [-i AIO] [-n]\n' +
    '          [--no-drain] [-o OFFSET] [--pattern=BYTE] [-q] [-s SIZE] [-S STEP] [-t CACHE] [-w] [-U] FILE',
  'bitmap (--add [-g SIZE] | --remove | --clear | --enable | --disable | --merge BITMAP\n' +
    '          [-b FILE [-F FMT]])... [-f FMT | --image-opts] FILE BITMAP',
  'check [-q] [-f FMT | --image-opts] [--output=human|json] [-r leaks|all] [-T CACHE] [-U] FILE',
  'commit [-q] [-f FMT | --image-opts] [-t CACHE] [-b BASE] [-r RATE] [-d] [-p] FILE',
  'compare [-f FMT] [-F FMT | --image-opts] [-T CACHE] [-p] [-q] [-s] [-U] FILE1 FILE2',
  'convert [-f FMT | --image-opts] [-O FMT | --target-image-opts] [-o OPTIONS] [-B FILE [-F FMT]]\n' +
    '          [-c] [-n [--target-is-zero]] [-p] [-q] [-t CACHE] [-T CACHE] [-S SIZE] [-m COUNT]\n' +
    '          [-W] [-C] [-r RATE] [-l SNAPSHOT] [--bitmaps [--skip-broken-bitmaps]] [--salvage] [-U]\n' +
    '          SOURCE... TARGET',
  'create [-q] [-f FMT] [-b FILE [-F FMT]] [-u] [-o OPTIONS] FILE [SIZE]',
  'dd [-f FMT | --image-opts] [-O FMT] [-U] [bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILE of=FILE',
  'info [-f FMT | --image-opts] [--output=human|json] [--backing-chain] [-U] FILE',
  'map [-f FMT | --image-opts] [-s, --start-offset=OFFSET] [-l, --max-length=LENGTH]\n' +
    '          [--output=human|json] [-U] FILE',
  'measure [--output=human|json] [-O FMT] [-o OPTIONS] [--size SIZE |\n' +
    '          [-f FMT | --image-opts] [-l SNAPSHOT] [-U] FILE]',
  'rebase [-u] [-p] [-q] [-f FMT | --image-opts] [-t CACHE] [-T CACHE] [-U] -b FILE [-F FMT] FILE',
  'resize [-q] [-f FMT | --image-opts] [--shrink] [--preallocation=MODE] FILE [+|-]SIZE',
  'snapshot [-q] [--image-opts] [-U] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILE',
]

const terms: readonly (readonly [string, string])[] = [
  ['FILE', 'a disk image: a path, a URL, or json:{…}'],
  ['--image-opts', 'FILE is driver=FMT,file.filename=… instead'],
  [
    '--object OBJ',
    'TYPE,id=ID,…: a secret, or credentials for TLS, that FILE refers to; not with dd',
  ],
  ['FMT', 'the format; guessed from the image where it is not given'],
  ['OPTIONS', 'NAME=VALUE,… of the format; -o help lists them'],
  ['SIZE', 'bytes, or with k, M, G, T, P or E: KiB, MiB, GiB, TiB, PiB, EiB'],
  ['CACHE', 'none, writeback, writethrough, directsync or unsafe'],
  ['-b, -B FILE', 'the backing file that the new image builds on'],
  ['-F FMT', 'the format of the backing file; with compare, of the second image'],
  ['-u', 'do not open the backing file'],
  ['-c', 'compress the target'],
  ['-n', 'the target exists already'],
  ['-p', 'show progress'],
  ['-q', 'print errors only'],
  ['-r', 'with check: repair leaks, or everything'],
  ['-s', 'with compare: sizes and allocation have to be equal too'],
  ['-S SIZE', 'runs of zeroes from this size on become holes (4k); 0 writes all'],
  ['-U', 'open even while another process writes to the image'],
  ['-W', 'write to the target in any order'],
  ['-C', 'accepted; data is copied the usual way'],
  ['--bitmaps', 'copy persistent bitmaps, too'],
  ['SNAPSHOT', 'the name or id of an internal snapshot'],
]

export function usage(program: string): string {
  const formats = drivers.map(({ name }) => name).sort()
  return (
    `usage: ${program} COMMAND [OPTION]... ARGUMENT...\n\n` +
    `The commands and options of qemu-img.\n\nCommands:\n` +
    `${commands.map((line) => `  ${line}\n`).join('')}\n` +
    `${terms.map(([term, meaning]) => `  ${term.padEnd(13)} ${meaning}\n`).join('')}\n` +
    `  -h, --help    print this text\n  -V, --version print the version\n  -T, --trace   accepted, of no effect\n\n` +
    `Supported formats: ${formats.join(' ')}\n`
  )
}
