import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    // koffi is loaded once per process; threads would share its global state.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
