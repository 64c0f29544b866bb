/**
 * The S-boxes of Serpent on 32 columns at a time: word `i` of the state has bit `i` of every column.
 * Each output bit is written as the sum of products of input bits (its algebraic normal form), which
 * follows from the tables of the specification; `serpent.test.ts` holds them against those. They
 * take the same time whatever the data is.
 */

export type Substitution = (state: Int32Array) => void

function substitute0(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const abc = ab & c
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(a ^ ab ^ c ^ ac ^ bc ^ abc ^ d ^ acd ^ bcd)
  x[1] = ~(a ^ ac ^ bc ^ abc ^ bd ^ acd ^ bcd)
  x[2] = b ^ ab ^ ac ^ abc ^ d ^ bd ^ bcd
  x[3] = a ^ b ^ c ^ d ^ ad
}

function substitute1(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(a ^ b ^ bc ^ ad ^ cd ^ acd ^ bcd)
  x[1] = ~(a ^ ab ^ c ^ ac ^ d ^ bd ^ abd ^ acd ^ bcd)
  x[2] = ~(b ^ ab ^ c ^ d)
  x[3] = ~(b ^ ac ^ d ^ ad ^ abd ^ acd ^ bcd)
}

function substitute2(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  x[0] = b ^ c ^ ac ^ d
  x[1] = a ^ b ^ c ^ bc ^ abc ^ ad ^ abd ^ cd ^ acd
  x[2] = a ^ b ^ bc ^ d ^ bd ^ abd ^ cd ^ acd
  x[3] = ~(a ^ b ^ c ^ abc ^ bd)
}

function substitute3(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = a ^ b ^ bc ^ d ^ ad ^ cd ^ acd ^ bcd
  x[1] = a ^ b ^ ac ^ ad ^ abd ^ cd ^ acd
  x[2] = a ^ ab ^ c ^ abc ^ d ^ bd ^ abd
  x[3] = a ^ b ^ ab ^ c ^ ac ^ abc ^ d ^ cd ^ acd
}

function substitute4(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(b ^ ab ^ c ^ d ^ ad ^ bd)
  x[1] = a ^ ac ^ bc ^ d ^ bd ^ cd ^ acd ^ bcd
  x[2] = a ^ ab ^ c ^ bc ^ abc ^ bd ^ abd ^ cd ^ bcd
  x[3] = a ^ b ^ c ^ bc ^ ad ^ bd ^ abd
}

function substitute5(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(b ^ ab ^ c ^ d ^ ad ^ bd)
  x[1] = ~(a ^ ab ^ c ^ d ^ bd ^ abd ^ cd)
  x[2] = ~(b ^ ac ^ d ^ abd ^ cd ^ acd ^ bcd)
  x[3] = ~(a ^ b ^ c ^ abc ^ d ^ ad ^ acd)
}

function substitute6(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const bcd = bc & d
  x[0] = ~(a ^ b ^ c ^ ac ^ bc ^ abc ^ d ^ abd ^ bcd)
  x[1] = ~(b ^ c ^ ad)
  x[2] = ~(a ^ ab ^ c ^ bc ^ abc ^ bd ^ abd ^ cd ^ bcd)
  x[3] = b ^ ab ^ c ^ ac ^ abc ^ d ^ cd ^ bcd
}

function substitute7(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(ab ^ c ^ ad ^ bd ^ cd ^ acd ^ bcd)
  x[1] = b ^ ab ^ c ^ ac ^ bc ^ d ^ ad ^ abd ^ acd
  x[2] = a ^ b ^ c ^ abc ^ d ^ ad ^ bd ^ abd ^ bcd
  x[3] = a ^ b ^ c ^ ac ^ abc ^ ad
}

function restore0(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(ab ^ c ^ bc ^ ad ^ bd ^ abd ^ cd ^ acd ^ bcd)
  x[1] = a ^ b ^ c ^ ac ^ bd ^ acd ^ bcd
  x[2] = ~(a ^ b ^ ab ^ c ^ d)
  x[3] = ~(a ^ bc ^ d ^ abd ^ cd ^ acd ^ bcd)
}

function restore1(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const abc = ab & c
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(a ^ b ^ ab ^ abc ^ bd ^ acd ^ bcd)
  x[1] = b ^ c ^ abc ^ d ^ ad ^ bd ^ acd ^ bcd
  x[2] = ~(a ^ b ^ ac ^ bc ^ abc ^ d ^ acd)
  x[3] = a ^ c ^ d ^ bd
}

function restore2(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  x[0] = a ^ b ^ c ^ bc ^ bd
  x[1] = b ^ ab ^ c ^ ad ^ abd ^ cd ^ acd
  x[2] = ~(a ^ ab ^ c ^ d ^ ad ^ bd ^ abd ^ acd)
  x[3] = ~(ab ^ bc ^ abc ^ d ^ acd)
}

function restore3(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = a ^ c ^ bc ^ d ^ ad ^ bd ^ bcd
  x[1] = b ^ c ^ bc ^ abc ^ d ^ ad ^ acd ^ bcd
  x[2] = ab ^ ac ^ bc ^ ad ^ bd ^ abd ^ cd ^ acd
  x[3] = a ^ b ^ c ^ ac ^ abc ^ ad ^ abd ^ cd
}

function restore4(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  x[0] = ~(a ^ b ^ c ^ d ^ ad ^ abd ^ cd ^ acd)
  x[1] = ab ^ c ^ ac ^ d ^ ad ^ acd
  x[2] = ~(a ^ b ^ ab ^ c ^ ac ^ abc ^ d ^ bd ^ abd)
  x[3] = b ^ ab ^ c ^ ad ^ abd ^ cd
}

function restore5(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  x[0] = a ^ bc ^ d ^ abd
  x[1] = a ^ b ^ ac ^ bc ^ abc ^ d ^ ad ^ abd
  x[2] = a ^ ab ^ c ^ bd ^ abd ^ acd
  x[3] = ~(b ^ ab ^ c ^ abc ^ ad)
}

function restore6(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const bcd = bc & d
  x[0] = ~(a ^ ab ^ ac ^ bc ^ abc ^ d ^ abd ^ bcd)
  x[1] = ~(b ^ c ^ ac ^ d)
  x[2] = ~(a ^ b ^ bc ^ bd ^ abd ^ cd ^ bcd)
  x[3] = ~(b ^ ab ^ c ^ bc ^ abc ^ d ^ ad ^ abd ^ cd ^ bcd)
}

function restore7(x: Int32Array): void {
  const a = x[0]
  const b = x[1]
  const c = x[2]
  const d = x[3]
  const ab = a & b
  const ac = a & c
  const ad = a & d
  const bc = b & c
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  x[0] = ~(a ^ b ^ bc ^ bd ^ abd ^ cd ^ bcd)
  x[1] = ~(a ^ c ^ bc ^ d ^ ad ^ bd ^ acd ^ bcd)
  x[2] = b ^ ac ^ d ^ abd ^ cd ^ acd
  x[3] = ab ^ c ^ abc ^ ad ^ bd ^ abd
}

/** S0 to S7. */
export const substitutions: readonly Substitution[] = [
  substitute0,
  substitute1,
  substitute2,
  substitute3,
  substitute4,
  substitute5,
  substitute6,
  substitute7,
]

/** Their inverses. */
export const inverses: readonly Substitution[] = [
  restore0,
  restore1,
  restore2,
  restore3,
  restore4,
  restore5,
  restore6,
  restore7,
]
