/* head.S - from the 64-bit boot protocol's entry into guest.c: %rsi is the zero page */
	.section .head, "ax"
	.code64
	.org	0x200
	.globl	entry64
entry64:
	cli
	cld
	lea	stack_top(%rip), %rsp
	mov	%rsi, %rdi
	call	guest_main
1:	hlt
	jmp	1b
