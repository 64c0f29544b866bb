/** Commands about the session rather than the disk: `open`, `close`, `help`, `sleep`, … */
import { setTimeout as delay } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import { type ImageSettings, OpenedImage, settingsFromOptions } from './image.ts'
import { CommandError, SynopsisRequest } from './outcome.ts'
import { type IoCommand, type Session, synopsis } from './session.ts'
import { integer, parseWords, size } from './words.ts'

export const abort: IoCommand = {
  name: 'abort',
  summary: 'simulate a program crash using abort(3)',
  least: 0,
  most: 0,
  withoutImage: true,
  run() {
    process.abort()
  },
}

export const open: IoCommand = {
  name: 'open',
  alias: 'o',
  arguments: '[-rsCnkU] [-t cache] [-d discard] [-o options] [path]',
  summary: 'open the file specified by path',
  least: 1,
  most: Number.POSITIVE_INFINITY,
  withoutImage: true,
  manual: `
 opens a new file in the requested mode

 Example:
 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached

 Opens a file for subsequent use by all of the other qemu-io commands.
 -r, -- open file read-only
 -s, -- use snapshot file
 -C, -- use copy-on-read
 -n, -- disable host cache, short for -t none
 -U, -- force shared permissions
 -k, -- use kernel AIO implementation (Linux only, prefer use of -i)
 -i, -- use AIO mode (threads, native or io_uring)
 -t, -- use the given cache mode for the image
 -d, -- use the given discard mode for the image
 -o, -- options to be given to the block driver
`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'snCro:ki:t:d:U', session)
    const given = settingsFromOptions(options, session.io)
    if (session.imageOpts && options.has('o')) {
      throw new CommandError("--image-opts and 'open -o' are mutually exclusive")
    }
    if (rest.length > 1) throw new SynopsisRequest()
    await openImageIn(session, {
      ...given,
      filename: rest[0],
      imageOpts: session.imageOpts,
      optionString: options.get('o'),
    })
  },
}

/** Opens the image that the session works on. Throws `CommandError`. */
export async function openImageIn(session: Session, settings: ImageSettings): Promise<void> {
  const fail = (message: string) => new CommandError(`${session.io.program}: ${message}`, 'stderr')
  if (session.hasImage) throw fail(`file open already, try 'help close'`)
  try {
    session.adopt(await OpenedImage.open(settings, session.io))
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const named = settings.filename === undefined || settings.imageOpts
    const what = named ? "can't open" : `can't open device ${settings.filename}`
    throw fail(`${what}: ${error.message}`)
  }
}

export const close: IoCommand = {
  name: 'close',
  alias: 'c',
  summary: 'close the current open file',
  least: 0,
  most: 0,
  run: (_, session) => closing(session, () => session.close()),
}

/** A failure to write the last of an image is an error of the command. */
async function closing(session: Session, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    throw new CommandError(`${session.io.program}: ${error.message}`, 'stderr')
  }
}

export const reopen: IoCommand = {
  name: 'reopen',
  arguments: '[(-r|-w)] [-c cache] [-o options]',
  summary: 'reopens an image with new options',
  least: 0,
  most: Number.POSITIVE_INFINITY,
  manual: `
 Changes the open options of an already opened image

 Example:
 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image

 -r, -- Reopen the image read-only
 -w, -- Reopen the image read-write
 -c, -- Change the cache mode to the given value
 -o, -- Changes block driver options (cf. 'open' command)

`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'c:o:rw', session)
    const fail = (message: string) =>
      new CommandError(`${session.io.program}: ${message}`, 'stderr')
    if (options.has('r') && options.has('w')) throw fail('Only one -r/-w option may be given')
    if (rest.length > 0) throw new SynopsisRequest()
    const readOnly = options.has('r') ? true : options.has('w') ? false : undefined
    await session.settled()
    await closing(session, () =>
      session.image.reopen({
        readOnly,
        cache: newCache(options.get('c'), fail),
        optionString: options.get('o'),
      }),
    )
  },
}

function newCache(
  name: string | undefined,
  fail: (message: string) => CommandError,
): CacheMode | undefined {
  if (name === undefined) return undefined
  const mode = cacheMode(name)
  if (!mode) throw fail(`Invalid cache option: ${name}`)
  return mode
}

export const help: IoCommand = {
  name: 'help',
  alias: '?',
  arguments: '[command]',
  summary: 'help for one or all commands',
  least: 0,
  most: 1,
  withoutImage: true,
  run(words, session) {
    const [, name] = words
    if (name === undefined) {
      for (const command of session.commands) session.print(synopsis(command))
      return session.print("\nUse 'help commandname' for extended help.\n")
    }
    const command = session.commands.find((each) => [each.name, each.alias].includes(name))
    if (!command) throw new CommandError(`command ${name} not found`)
    session.print(synopsis({ ...command, name }) + (command.manual ?? ''))
  },
}

export const quit: IoCommand = {
  name: 'quit',
  alias: 'q',
  summary: 'exit the program',
  least: 0,
  most: Number.POSITIVE_INFINITY,
  withoutImage: true,
  run(_, session) {
    session.ended = true
  },
}

export const sigraise: IoCommand = {
  name: 'sigraise',
  arguments: 'signal',
  summary: 'raises a signal',
  least: 1,
  most: 1,
  withoutImage: true,
  manual: `
 raises the given signal

 Example:
 'sigraise 15' - raises SIGTERM

 Invokes raise(signal), where "signal" is the mandatory integer argument
 given to sigraise.

`,
  async run(words, session) {
    const signal = size(words[1], session)
    if (signal > lastSignal) {
      throw new CommandError(`signal argument '${words[1]}' is too large to be a valid signal`)
    }
    // qemu-io, too, has its output seen first.
    session.io.stdout.flush?.()
    process.kill(process.pid, signal)
    // The signal arrives while nothing else runs.
    await delay(0)
  },
}

const lastSignal = 64

export const sleep: IoCommand = {
  name: 'sleep',
  summary: 'waits for the given value in milliseconds',
  least: 1,
  most: 1,
  withoutImage: true,
  async run(words) {
    const milliseconds = integer(words[1])
    if (milliseconds === undefined || milliseconds < 0) {
      throw new CommandError(`${words[1]} is not a valid number`)
    }
    await delay(Math.min(milliseconds, longestTimer))
  },
}

/** Node's timers count in 31 bits. */
const longestTimer = 2 ** 31 - 1
