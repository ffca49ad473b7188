/*
 * off.S - a guest whose first instructions switch it off
 *
 * What is measured with it is the VMM: everything it does from exec to here, and its end.
 * The marker says to a counting emulator (icount.c) that the guest has been reached.
 */
#include "marker.h"

	.section .head, "ax"
	.code64
	.org	0x200
	.globl	entry64
entry64:
	MARKER(MARK_GUEST)
	mov	$0x600, %edx		/* ACPI sleep control: SLP_EN, S5 */
	mov	$0x34, %eax
	out	%al, %dx
1:	hlt
	jmp	1b
