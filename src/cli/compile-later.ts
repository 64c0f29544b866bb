/**
 * When V8's last compiler begins, in commands that serve.
 *
 * TurboFan takes half a second of processor time for the code that serves a request, and wants it in the first
 * 10,000 requests: on a machine of two cores they wait for it, and a third of what it makes is thrown away when the
 * next kind of request comes. The compilers before it are nearly as fast, so what serves waits
 * until a function has been called 20,000 times instead of 3,000 (docs/performance.md).
 */
import { setFlagsFromString } from 'node:v8'

/** The V8 of Node 24. Others may not know the flag, and would say so on standard error. */
const knownVersion = '13.6.'

/** For this process, from now on. */
export function compileLater(): void {
  if (!process.versions.v8.startsWith(knownVersion)) return
  setFlagsFromString('--invocation-count-for-turbofan=20000')
}
