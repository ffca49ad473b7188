/*
 * sys.h - ring 0 for code that runs in ring 3
 *
 * All tests run in ring 3 with IOPL 3 and interrupts off: port and MMIO accesses are
 * done where the test stands. What only ring 0 may do goes through ring0(). An
 * interrupt is taken only inside sys_halt() and irq_wait(), or between
 * irq_open() and irq_close(); it is counted by vector.
 */
#ifndef GUEST_SYS_H
#define GUEST_SYS_H

#include "x86.h"

struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

/* Fill IDT and TSS. Once, before anything else here. */
void sys_init(void);

/* fn(a, b) in ring 0, interrupts off. What it calls must be of general registers only. */
uint64_t ring0(uint64_t (*fn)(uint64_t, uint64_t), uint64_t a, uint64_t b);

/* The address of the IDT, for other processors. */
uint64_t sys_idt(void);

/* One sti; hlt; cli. */
void sys_halt(void);
/* True if the access went through, false on #GP. */
bool sys_rdmsr(uint32_t msr, uint64_t *value);
bool sys_wrmsr(uint32_t msr, uint64_t value);
/* CPUID as KVM gives it: a PVM-type KVM does not see the instruction in ring 3. */
struct cpuid sys_cpuid(uint32_t leaf, uint32_t subleaf);

/* Make [addr, addr + size) reachable, one to one. The first 4 GiB always are. False: no tables
 * left. */
bool sys_map(uint64_t addr, uint64_t size);

/* Interrupts taken so far, by vector. */
extern volatile uint32_t irq_count[256];
/* Called in ring 0 before the EOI of a vector, if set: a level interrupt is quenched here. */
extern void (*irq_hook[256])(void);
/* Let interrupts in while ring 3 code runs. */
void irq_open(void);
void irq_close(void);
/* Sleep until a vector has been taken `count` times in all. False: it was not within `ms`. */
bool irq_wait(uint8_t vector, uint32_t count, unsigned ms);
/* The same for a count that a hook keeps. */
bool irq_wait_for(volatile uint32_t *counter, uint32_t count, unsigned ms);

/* Power off by ACPI S5. Does not return. */
__attribute__((noreturn)) void sys_off(void);
/* The ways to reset or to die; they return only if nothing happened. */
void sys_reset_acpi(void);
void sys_reset_keyboard(void);
void sys_reset_cf9(void);
void sys_triple_fault(void);

#endif
