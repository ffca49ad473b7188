/*
 * init.S - the first process of a Linux guest, as small as can be
 *
 * It runs the marker, says on the console that user space is there, and waits for ever. No library:
 * nothing but the kernel's boot is between the VMM's start and here.
 */
#include <asm/unistd.h>

#include "marker.h"

	.section .rodata
text:	.ascii	"bench: user space\n"
	.set	text_size, . - text

	.text
	.globl	_start
_start:
	MARKER(MARK_GUEST)
	mov	$__NR_write, %eax
	mov	$1, %edi
	lea	text(%rip), %rsi
	mov	$text_size, %edx
	syscall
1:	mov	$__NR_pause, %eax
	syscall
	jmp	1b

	.section .note.GNU-stack, "", @progbits
