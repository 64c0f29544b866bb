import { Writable } from 'node:stream'
import { expect, test } from 'vitest'
import { Meter, openProgress, takenText } from './progress.ts'

test('the rate is that of the last seconds, and tells what is left', () => {
  const meter = new Meter()
  expect(meter.rate).toBe(0)
  expect(meter.secondsLeft(0, 100)).toBeUndefined()
  for (let second = 0; second <= 10; second++) meter.add(second * 1000, second * 1000)
  for (let second = 1; second <= 5; second++) {
    meter.add(10_000 + second * 100, 10_000 + second * 1000)
  }
  expect(meter.rate).toBe(100)
  expect(meter.secondsLeft(10_500, 11_500)).toBe(10)
  expect(meter.secondsLeft(11_500, 11_500)).toBe(0)
})

test('JSON lines: the first at once, the last when it stops, not all between', () => {
  const { stream, text } = memory()
  const progress = openProgress({ mode: 'json', label: 'x', terminal: stream, lines: stream })
  for (let done = 0; done <= 1000; done++) progress.update(done, 1000)
  progress.stop()
  const lines = text()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  expect(lines[0]).toEqual({ event: 'progress', done: 0, total: 1000, rate: 0, secondsLeft: null })
  expect(lines.at(-1)).toMatchObject({ event: 'progress', done: 1000, total: 1000, secondsLeft: 0 })
  expect(lines.length).toBeLessThan(100)
})

test('auto shows a bar on a terminal only', () => {
  const plain = memory()
  const silent = openProgress({
    mode: 'auto',
    label: 'backup',
    terminal: plain.stream,
    lines: plain.stream,
  })
  silent.update(1, 2)
  silent.stop()
  expect(plain.text()).toBe('')

  const terminal = memory(true)
  const bar = openProgress({
    mode: 'auto',
    label: 'backup',
    terminal: terminal.stream,
    lines: plain.stream,
  })
  bar.update(512 * 1024, 1024 * 1024)
  bar.stop()
  expect(terminal.text()).toContain('backup [############............]  50%  512 KiB of 1 MiB')
  expect(plain.text()).toBe('')
})

test.each([
  [0.04, '0.0 s'],
  [9.94, '9.9 s'],
  [42.3, '42 s'],
  [200, '3 min 20 s'],
  [7500, '2 h 5 min'],
])('%d seconds are %s', (seconds, text) => {
  expect(takenText(seconds)).toBe(text)
})

function memory(isTTY = false) {
  let written = ''
  const stream = new Writable({
    write(chunk, _, done) {
      written += chunk
      done()
    },
  })
  // The few things that a terminal has and the bar asks for.
  const columns = 200
  Object.assign(stream, { isTTY, columns, cursorTo: () => true, clearLine: () => true })
  return { stream, text: () => written }
}
