/*
 * traps.S - interrupt entry, calls into ring 0, and the start of further processors
 *
 * Every vector has a stub of 16 bytes that pushes an error code where the CPU has
 * none, then its own number. The frame is struct trap_frame of sys.h.
 */
#include "abi.h"

	.text
	.balign	16
	.globl	trap_stubs
trap_stubs:
	vector = 0
	.rept	256
	.balign	16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || \
		vector == 29 || vector == 30)
	push	$0
	.endif
	pushq	$vector
	jmp	trap_entry
	vector = vector + 1
	.endr

trap_entry:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	call	trap
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

/*
 * uint64_t ring0(uint64_t (*fn)(uint64_t, uint64_t), uint64_t a, uint64_t b)
 *
 * An undefined instruction, which ud_gate knows by its address. INT n would be the
 * usual way, but a PVM-type KVM cannot emulate it.
 */
	.globl	ring0
ring0:
	ud2
	ret

/* void irq_let(uint64_t flag): interrupts in ring 3, RFLAGS_IF or 0. STI would ask for IOPL. */
	.globl	irq_let
irq_let:
	ud2
	ret

/* The gate of #UD. As ring0() is called as a function, only what a function keeps is kept. */
	.globl	ud_gate
ud_gate:
	lea	ring0(%rip), %rax
	cmp	%rax, (%rsp)
	jne	1f
	addq	$2, (%rsp)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rdx, %rsi
	call	*%rax
	iretq
1:	lea	irq_let(%rip), %rax
	cmp	%rax, (%rsp)
	jne	trap_stubs + 6 * 16
	addq	$2, (%rsp)
	andq	$~RFLAGS_IF, 16(%rsp)
	or	%rdi, 16(%rsp)
	iretq

/*
 * Real mode, at AP_START with %cs = AP_START >> 4. Everything here is addressed relative
 * to that segment; ap_args is filled by smp.c.
 */
	.section .rodata
	.balign	16
	.globl	ap_start, ap_args, ap_end
ap_start:
	.code16
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	ap_gdt_ptr - ap_start
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$SEL_CODE32, $(AP_START + ap_32 - ap_start)
	.code32
ap_32:
	mov	$SEL_DATA0, %eax
	mov	%eax, %ds
	mov	%eax, %ss
	mov	$0x620, %eax
	mov	%eax, %cr4
	mov	AP_START + ap_cr3 - ap_start, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	bts	$8, %eax
	wrmsr
	mov	$0x80000023, %eax
	mov	%eax, %cr0
	ljmpl	$SEL_CODE0, $(AP_START + ap_64 - ap_start)
	.code64
ap_64:
	mov	$1, %eax		/* a stack of its own for each: next ticket */
	lock xadd %eax, AP_START + ap_ticket - ap_start
	mov	%eax, %edi
	imul	$STACK_SIZE, %rax, %rax
	add	AP_START + ap_stacks - ap_start, %rax
	lea	STACK_SIZE(%rax), %rsp
	jmp	*AP_START + ap_entry - ap_start
	.balign	8
ap_args:
ap_stacks: .quad 0
ap_entry: .quad	0
ap_cr3:	.long	0
ap_ticket: .long 0
ap_gdt_ptr:
	.word	GDT_SIZE - 1
	.long	0			/* a copy below 640 KiB would do as well: 32-bit base */
ap_end:
