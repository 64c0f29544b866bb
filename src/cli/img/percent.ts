/** As C prints with `%.2f`: a value that lies in the middle goes to the even neighbour. */
export function twoDecimals(value: number): string {
  const hundredths = value * 100
  // Only eighths can lie in the middle exactly; `toFixed` would round all of those up.
  const inTheMiddle = (value * 8) % 1 === 0 && hundredths % 1 === 0.5
  if (!inTheMiddle) return value.toFixed(2)
  const below = Math.floor(hundredths)
  return ((below % 2 === 0 ? below : below + 1) / 100).toFixed(2)
}
