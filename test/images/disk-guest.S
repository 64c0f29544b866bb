/*
 * A boot sector that writes to the disk it was booted from, for ever, and reads back what it wrote:
 * sector n of 4096, chosen by a hash of a counter, is read, compared with what was last written to
 * it (kept in RAM), and written anew. On COM1: the counter in hex, then `.`, or `X` if the sector
 * was not what it should be, or `E` if the BIOS reports an error.
 *
 * Built with: as --32 disk-guest.S -o d.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary d.o -o disk-guest.bin
 */
.code16
.globl _start
_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %ss
  movw $0x7c00, %sp
  sti
  movb %dl, drive
  /* the table of what was last written: 4096 dwords at 0x20000 */
  movw $0x2000, %ax
  movw %ax, %es
  xorw %di, %di
  xorl %eax, %eax
  movw $4096, %cx
  cld
  rep stosl
  xorl %ebp, %ebp
next:
  incl %ebp
  imull $0x9E3779B1, %ebp, %ebx
  shrl $20, %ebx
  movl %ebx, %eax
  addl $64, %eax
  movl %eax, lba
  movb $0x42, %ah
  call transfer
  movb $'.', outcome
  jnc 1f
  movb $'E', outcome
1: /* compare with what was last written: v, v+1, ... or zeroes if it never was */
  movl %ebx, %edi
  shll $2, %edi
  movl %es:(%di), %eax
  movl %eax, %edx
  testl %edx, %edx
  setnz %dl
  movzbl %dl, %edx
  movw $0x8000, %si
  movw $128, %cx
2: cmpl %eax, (%si)
  je 3f
  movb $'X', outcome
3: addl %edx, %eax
  addw $4, %si
  loop 2b
  /* write the counter there */
  movl %ebp, %eax
  movl %eax, %es:(%di)
  movw $0x8000, %si
  movw $128, %cx
4: movl %eax, (%si)
  incl %eax
  addw $4, %si
  loop 4b
  movw $0x4300, %ax
  call transfer
  jnc 5f
  movb $'E', outcome
5: movw $8, %cx
6: roll $4, %ebp
  movl %ebp, %eax
  andw $15, %ax
  movw %ax, %si
  movb hex(%si), %al
  call put
  loop 6b
  movb outcome, %al
  call put
  movb $10, %al
  call put
  jmp next
/* %ah: 0x42 reads, 0x43 writes */
transfer:
  movb drive, %dl
  movw $packet, %si
  int $0x13
  ret
put:
  pushw %ax
  movw $0x3fd, %dx
7: inb %dx, %al
  testb $0x20, %al
  jz 7b
  popw %ax
  movw $0x3f8, %dx
  outb %al, %dx
  ret
drive: .byte 0
outcome: .byte 0
hex: .ascii "0123456789abcdef"
.align 4
packet: .byte 16, 0
  .word 1
  .word 0x8000, 0
lba: .long 0, 0
.org 510
.word 0xaa55
