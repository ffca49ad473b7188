/*
 * entry.S - from the loader's state to C code in ring 3
 *
 * Three ways in: the 64-bit boot protocol (+0x200), the 32-bit one (+0) and PVH.
 * All end in start64, with the kind of entry in %edi and the loader's block in
 * %rsi. Ring 0 does as little as it can, because on a PVM-type KVM it is emulated
 * instruction by instruction: tables, a few control registers, iretq. Everything
 * that fills or clears memory happens in ring 3 (start.c).
 *
 * The page tables map the first 4 GiB one to one, for ring 3 too, and are constant
 * but for five links.
 */
#include "abi.h"

/* Where sym is, when %ebp is where the image is */
#define REL(sym) (sym - head)(%ebp)

	.section .head, "ax"
	.code32
head:
	.globl	entry32
entry32:				/* %esi = zero page; the image may be anywhere */
	cli
	cld
	lea	0x1e8(%esi), %esp	/* boot_params.scratch: four bytes of stack */
	call	1f
1:	pop	%ebp
	sub	$(1b - head), %ebp
	mov	$ENTRY_BZIMAGE32, %edi
	jmp	long_mode

	.globl	entry_pvh
entry_pvh:				/* %ebx = hvm_start_info; loaded where it is linked */
	cli
	cld
	mov	$LINK_BASE, %ebp
	mov	%ebx, %esi
	mov	$ENTRY_PVH, %edi

long_mode:
	mov	$MARK_ENTRY, %al
	out	%al, $MARK_PORT
	lea	REL(page_pdpt), %eax
	or	$7, %eax
	mov	%eax, REL(page_pml4)
	lea	REL(page_pd), %eax
	or	$7, %eax
	mov	%eax, REL(page_pdpt)
	add	$0x1000, %eax
	mov	%eax, REL(page_pdpt + 8)
	add	$0x1000, %eax
	mov	%eax, REL(page_pdpt + 16)
	add	$0x1000, %eax
	mov	%eax, REL(page_pdpt + 24)
	mov	%cr4, %eax
	or	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	lea	REL(page_pml4), %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	bts	$8, %eax
	wrmsr
	lea	REL(stack0_top), %esp
	lea	REL(gdt), %eax
	sub	$8, %esp
	mov	%eax, 2(%esp)
	movw	$GDT_SIZE - 1, (%esp)
	lgdt	(%esp)
	mov	%cr0, %eax
	or	$0x80000001, %eax
	mov	%eax, %cr0
	lea	REL(start64), %eax
	pushl	$SEL_CODE0
	pushl	%eax
	lretl

	.org	0x200
	.code64
	.globl	entry64
entry64:				/* %rsi = zero page; paging on, first 4 GiB one to one */
	cli
	cld
	mov	$MARK_ENTRY, %al
	out	%al, $MARK_PORT
	mov	$ENTRY_BZIMAGE64, %edi

start64:
	lea	stack0_top(%rip), %rsp
	lea	page_pdpt(%rip), %rax
	or	$7, %rax
	mov	%rax, page_pml4(%rip)
	lea	page_pd(%rip), %rax
	or	$7, %rax
	mov	%rax, page_pdpt(%rip)
	add	$0x1000, %rax
	mov	%rax, page_pdpt + 8(%rip)
	add	$0x1000, %rax
	mov	%rax, page_pdpt + 16(%rip)
	add	$0x1000, %rax
	mov	%rax, page_pdpt + 24(%rip)
	mov	%cr4, %rax
	or	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov	%rax, %cr4
	lea	page_pml4(%rip), %rax
	mov	%rax, %cr3
	mov	%cr0, %rax
	and	$~0x0c, %eax		/* EM and TS off: SSE is used for wide accesses */
	or	$0x22, %eax		/* MP, NE */
	mov	%rax, %cr0

	lea	tss(%rip), %rax		/* the descriptor is type 9 again after a reset */
	mov	%rsp, 4(%rax)		/* rsp0 */
	movw	%ax, gdt + SEL_TSS + 2(%rip)
	shr	$16, %rax
	movb	%al, gdt + SEL_TSS + 4(%rip)
	movb	$0x89, gdt + SEL_TSS + 5(%rip)
	movb	%ah, gdt + SEL_TSS + 7(%rip)
	shr	$16, %rax
	mov	%eax, gdt + SEL_TSS + 8(%rip)

	lea	gdt(%rip), %rax
	sub	$16, %rsp
	mov	%rax, 2(%rsp)
	movw	$GDT_SIZE - 1, (%rsp)
	lgdt	(%rsp)
	lea	idt(%rip), %rax		/* filled by start.c before anything can use it */
	mov	%rax, 2(%rsp)
	movw	$4095, (%rsp)
	lidt	(%rsp)
	add	$16, %rsp
	mov	$SEL_TSS, %eax
	ltr	%ax
	mov	$SEL_DATA3, %eax
	mov	%eax, %ds
	mov	%eax, %es

	lea	stack3_top(%rip), %rax
	lea	enter_c(%rip), %rcx
	pushq	$SEL_DATA3
	pushq	%rax
	pushq	$RFLAGS_RING3
	pushq	$SEL_CODE3
	pushq	%rcx
	iretq

	.text
enter_c:				/* ring 3; %edi, %rsi as they were */
	xor	%ebp, %ebp
	call	guest_start
1:	jmp	1b

	.section .note.Xen, "a", @note
	.long	4, 4, 18		/* "Xen", XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	LINK_BASE + (entry_pvh - head)

	.section .tables, "aw"
	.balign	4096
page_pd:
	i = 0
	.rept	2048
	.quad	(i << 21) | 0x87	/* present, writable, user, 2 MiB */
	i = i + 1
	.endr
	.globl	page_pml4
page_pml4:
	.fill	512, 8, 0
page_pdpt:
	.fill	512, 8, 0
	.globl	gdt
gdt:
	.quad	0, 0
	.quad	0x00af9b000000ffff	/* 0x10: ring 0, 64-bit code */
	.quad	0x00cf93000000ffff	/* 0x18: ring 0, data */
	.quad	0x00cff3000000ffff	/* 0x20: ring 3, data */
	.quad	0x00affb000000ffff	/* 0x28: ring 3, 64-bit code */
	.quad	0x0000890000000000 + TSS_SIZE - 1, 0 /* 0x30: TSS */
	.quad	0x00cf9b000000ffff	/* 0x40: ring 0, 32-bit code, for application processors */

	.section .noinit, "aw", @nobits
	.balign	4096
	.globl	idt
idt:	.skip	4096
	.globl	tss
tss:	.skip	TSS_SIZE
	.balign	16
	.skip	STACK_SIZE
stack0_top:
	.skip	STACK_SIZE
stack3_top:
