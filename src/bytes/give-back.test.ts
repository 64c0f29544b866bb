import { describe, expect, it } from 'vitest'
import { giveBack } from './give-back.ts'

describe('giveBack', () => {
  it('empties a chunk that is a buffer of its own', () => {
    const chunk = new Uint8Array(65536)
    giveBack(chunk)
    expect(chunk.length).toBe(0)
  })

  it('leaves a part of a buffer alone', () => {
    const whole = new Uint8Array(65536).fill(1)
    giveBack(whole.subarray(1))
    giveBack(whole.subarray(0, 65535))
    expect(whole[0]).toBe(1)
  })

  it('leaves small ones to the collector', () => {
    const chunk = new Uint8Array(100)
    giveBack(chunk)
    expect(chunk.length).toBe(100)
  })
})
