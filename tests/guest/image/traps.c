/*
 * traps.c - the IDT, what happens in ring 0, and the page tables
 *
 * Exceptions that nobody expects end the test and the machine. Everything reached
 * from trap() may run emulated, so it is short.
 */
#include "sys.h"

#include "abi.h"
#include "apic.h"
#include "print.h"

struct idt_entry {
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
	uint32_t offset2, zero;
};

struct __attribute__((packed)) tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1, ist[7], reserved2;
	uint16_t reserved3, iomap;
	uint8_t ports[0x2000 + 1];
};
_Static_assert(sizeof(struct tss) == TSS_SIZE, "abi.h");

extern struct idt_entry idt[256];
extern struct tss tss;
extern const char trap_stubs[], ud_gate[];
extern uint64_t page_pml4[512];

volatile uint32_t irq_count[256];
void (*irq_hook[256])(void);
/* Expect a fault: the next exception jumps to trap_resume and leaves its vector in trap_seen. */
static volatile uint64_t trap_resume;
static volatile int trap_seen;

void trap(struct trap_frame *f);
void irq_let(uint64_t flag);

static void idt_set(unsigned vector, const char *entry, uint8_t type)
{
	uint64_t offset = (uint64_t)entry;

	idt[vector] = (struct idt_entry){ .offset0 = (uint16_t)offset,
		.selector = SEL_CODE0,
		.type = type,
		.offset1 = (uint16_t)(offset >> 16),
		.offset2 = (uint32_t)(offset >> 32) };
}

void sys_init(void)
{
	for (unsigned v = 0; v < 256; v++)
		idt_set(v, trap_stubs + v * 16, 0x8e);
	idt_set(6, ud_gate, 0x8e);
	/*
	 * IOPL 3 is enough on a CPU. The emulator of a PVM-type KVM does not see it and asks the
	 * bitmap, so every port is open there too.
	 */
	tss.iomap = offsetof(struct tss, ports);
	memset(tss.ports, 0, 0x2000);
	tss.ports[0x2000] = 0xff;
}

uint64_t sys_idt(void)
{
	return (uint64_t)idt;
}

static void trap_unexpected(const struct trap_frame *f)
{
	uint64_t cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	console_init();
	printf("\nnot ok - exception %lu error 0x%lx at rip 0x%lx cs 0x%lx rsp 0x%lx cr2 0x%lx\n",
		f->vector, f->error, f->rip, f->cs, f->rsp, cr2);
	sys_off();
}

/* Ring 0, from traps.S. */
void trap(struct trap_frame *f)
{
	if (f->vector >= 32) {
		uint8_t v = (uint8_t)f->vector;

		__atomic_fetch_add(&irq_count[v], 1, __ATOMIC_SEQ_CST);
		if (irq_hook[v])
			irq_hook[v]();
		if (v != VECTOR_SPURIOUS)
			apic_eoi();
		return;
	}
	if (f->vector == 2) { /* a stray NMI is nobody's fault */
		irq_count[2]++;
		return;
	}
	if (!trap_resume)
		trap_unexpected(f);
	trap_seen = (int)f->vector;
	f->rip = trap_resume;
	trap_resume = 0;
}

static uint64_t halt0(uint64_t a, uint64_t b)
{
	asm volatile("sti; hlt; cli" : : : "memory");
	return 0;
}

void sys_halt(void)
{
	ring0(halt0, 0, 0);
}

static uint64_t rdmsr0(uint64_t msr, uint64_t value)
{
	uint32_t lo = 0, hi = 0;

	trap_seen = -1;
	asm volatile("lea 1f(%%rip), %%rax\n\tmov %%rax, %[resume]\n\t"
		     "rdmsr\n1:\tmovq $0, %[resume]"
		     : "=a"(lo), "=d"(hi), [resume] "=m"(trap_resume)
		     : "c"((uint32_t)msr)
		     : "memory");
	*(uint64_t *)value = (uint64_t)hi << 32 | lo;
	return trap_seen < 0;
}

bool sys_rdmsr(uint32_t msr, uint64_t *value)
{
	return ring0(rdmsr0, msr, (uint64_t)value);
}

static uint64_t wrmsr0(uint64_t msr, uint64_t value)
{
	uint64_t scratch;

	trap_seen = -1;
	asm volatile("lea 1f(%%rip), %[scratch]\n\tmov %[scratch], %[resume]\n\t"
		     "wrmsr\n1:\tmovq $0, %[resume]"
		     : [scratch] "=&r"(scratch), [resume] "=m"(trap_resume)
		     : "c"((uint32_t)msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
		     : "memory");
	return trap_seen < 0;
}

bool sys_wrmsr(uint32_t msr, uint64_t value)
{
	return ring0(wrmsr0, msr, value);
}

static uint64_t cpuid0(uint64_t leaf, uint64_t result)
{
	struct cpuid *r = (struct cpuid *)result;

	*r = cpuid((uint32_t)leaf, r->ecx);
	return 0;
}

struct cpuid sys_cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r = { .ecx = subleaf };

	ring0(cpuid0, leaf, (uint64_t)&r);
	return r;
}

void irq_open(void)
{
	irq_let(RFLAGS_IF);
}

void irq_close(void)
{
	irq_let(0);
}

bool irq_wait_for(volatile uint32_t *counter, uint32_t count, unsigned ms)
{
	if (*counter >= count)
		return true;
	apic_timer_start(VECTOR_TIMEOUT, ms);
	/* Should the timer run out right before the hlt, its interrupt ends that. */
	while (*counter < count && apic_read(LAPIC_TIMER_NOW))
		sys_halt();
	apic_timer_stop();
	return *counter >= count;
}

bool irq_wait(uint8_t vector, uint32_t count, unsigned ms)
{
	return irq_wait_for(&irq_count[vector], count, ms);
}

#define NR_SPARE_TABLES 192
static uint64_t spare_tables[NR_SPARE_TABLES][512] __attribute__((aligned(4096)));
static unsigned nr_spare_used;

static uint64_t *table_below(uint64_t *table, unsigned i)
{
	if (!(table[i] & 1)) {
		if (nr_spare_used == NR_SPARE_TABLES)
			return NULL;
		table[i] = (uint64_t)spare_tables[nr_spare_used++] | 7;
	}
	return (uint64_t *)(table[i] & ~0xfffull);
}

bool sys_map(uint64_t addr, uint64_t size)
{
	uint64_t last = (addr + size - 1) >> 21;

	for (uint64_t page = addr >> 21; page <= last; page++) {
		uint64_t *pdpt = table_below(page_pml4, page >> 18 & 511);
		uint64_t *pd = pdpt ? table_below(pdpt, page >> 9 & 511) : NULL;

		if (!pd)
			return false;
		if (!(pd[page & 511] & 1))
			pd[page & 511] = page << 21 | 0x87;
	}
	return true;
}

void sys_off(void)
{
	outb(MARK_PORT, MARK_DONE);
	outb(0x600, 5 << 2 | 1 << 5);
	/* The machine stops this CPU whenever it gets round to it. */
	for (;;)
		sys_halt();
}

void sys_reset_acpi(void)
{
	outb(0x600, 1);
}

void sys_reset_keyboard(void)
{
	outb(0x64, 0xfe);
}

/* As Linux does it: what kind, then that it is to be. */
void sys_reset_cf9(void)
{
	uint8_t other = inb(0xcf9) & ~0x06;

	outb(0xcf9, other | 0x02);
	outb(0xcf9, other | 0x06);
}

static uint64_t triple_fault0(uint64_t a, uint64_t b)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} none = { 0, 0 };

	asm volatile("lidt %0; ud2" : : "m"(none));
	return 0;
}

void sys_triple_fault(void)
{
	ring0(triple_fault0, 0, 0);
}
