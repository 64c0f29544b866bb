import { describe, expect, it } from 'vitest'
import { runCommand } from '../../../test/support/cli.ts'
import { run } from '../snap.ts'
import { parseArguments } from './arguments.ts'

const save = ['-s', '1G', 'save', 'f']

describe('the command line', () => {
  it('has the options of qemu-snap in all their spellings', () => {
    for (const words of [
      ['-s', '2G', '-S', '8k', '-n', '--aio=native', '-t', 'save', 'f'],
      ['save', '--image-size=2G', '--page-size=8192', '--cache=none', 'f'],
      ['save', 'f', '--image=2048M', '--page=8k', '--nocache', '--aio', 'io_uring'],
    ]) {
      const parsed = parseArguments(words)
      expect(parsed).toMatchObject({ command: 'save', files: ['f'], imageSize: 2 ** 31 })
      expect(parsed).toMatchObject({ pageSize: 8192, cache: { direct: true, noFlush: false } })
    }
  })

  it.each([['0'], ['60'], ['100'], ['99.9'], ['60%']])('takes %s as a percentage', (text) => {
    const parsed = parseArguments(['-p', text, 'load', 'f'])
    expect(parsed).toMatchObject({ postcopy: Number.parseFloat(text) })
  })

  it.each([
    [[], 'Missing command: save or load', true],
    [['keep', 'f'], 'Invalid command: keep', true],
    [['load'], 'Missing image filename', true],
    [['load', 'f', 'g'], 'Too many arguments', true],
    [['save', 'f'], 'Missing image size: --image-size=SIZE is required for save', true],
    [['-s', '1G', 'load', 'f'], '--image-size cannot be used with load', false],
    [['-p', '5', ...save], '--postcopy cannot be used with save', false],
    [['-s', '0', 'save', 'f'], 'The image size has to be greater than 0', false],
    [['-s', '1X', 'save', 'f'], "Invalid image size '1X'", false],
    [['-s', '1', ...save], '--image-size can only be specified once', false],
    [['-n', '--cache=none', ...save], '-n and --cache can only be specified once', false],
    [['--cache=some', ...save], "Invalid cache mode 'some'", false],
    [['--aio=fast', ...save], "Invalid aio mode 'fast'", false],
    [['--aio=native', '--aio=native', ...save], '--aio can only be specified once', false],
    [['-S', '3000', ...save], "Invalid page size '3000': it has to be a power of two", false],
    [['-S', '32k', ...save], "Invalid page size '32k': it has to be from 1024 to 16384", false],
    [['-p', '101', 'load', 'f'], "Invalid postcopy percentage '101'", false],
    [['-p', '-1', 'load', 'f'], "Invalid postcopy percentage '-1'", false],
    [['-p', 'all', 'load', 'f'], "Invalid postcopy percentage 'all'", false],
    [['--what', 'load', 'f'], "unrecognized option '--what'", true],
    [['-x', 'load', 'f'], "invalid option -- 'x'", true],
    [['-s'], "option requires an argument -- 's'", true],
    [['take', 'f'], '--qmp=SOCKET is required for take', true],
    [['--uri=fd:1', 'load', '/dev/null'], '', false],
    [['--disk', 'x', '--qmp', 'q', 'take', 'f'], "Invalid disk 'x'", false],
    [['--aio=native', ...save], 'aio=native was specified, but it requires cache.direct=on', false],
    [['-O', 'tar', 'convert', 'a', 'b'], "Invalid format 'tar'", false],
  ])('refuses %j', async (words, message, hint) => {
    const { status, stdout, stderr } = await runCommand(run, words)
    expect(status).toBe(1)
    expect(stdout.toString()).toBe('')
    const [first, second] = stderr.split('\n')
    expect(first).toContain(`varve-snap: ${message}`)
    expect(second).toBe(hint ? "Try `varve-snap --help' for more information." : '')
  })

  it('tells how it is used, and its version', async () => {
    const help = await runCommand(run, ['--help'])
    expect(help.stdout.toString()).toMatch(/^Usage: varve-snap \[OPTIONS\] save\|load/)
    expect(help.status).toBe(0)
    const version = await runCommand(run, ['-V'])
    expect(version.stdout.toString()).toMatch(/^varve-snap \d+\.\d+/)
  })
})
