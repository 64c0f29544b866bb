/** A number with three significant digits, as C prints it with `%.3g`. */
export function threeDigits(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return String(value)
  const rounded = roundedToThree(value)
  const exponent = Math.floor(Math.log10(Math.abs(rounded)))
  if (exponent >= -4 && exponent < 3) return String(rounded)
  const [mantissa, power] = rounded.toExponential(2).split('e')
  return `${Number(mantissa)}e${power[0]}${power.slice(1).padStart(2, '0')}`
}

/** Halfway between two, to the even one; `toPrecision` would go away from zero. */
function roundedToThree(value: number): number {
  const scale = 10 ** (2 - Math.floor(Math.log10(Math.abs(value))))
  const digits = Math.abs(value * scale)
  const below = Math.floor(digits)
  // Only sixteenths can be halfway between numbers of three digits, and below 0.1 none is.
  const halfway = digits - below === 0.5 && (value * 16) % 1 === 0
  return halfway && below % 2 === 0
    ? (Math.sign(value) * below) / scale
    : Number(value.toPrecision(3))
}
