/* apic.c - see apic.h */
#include "apic.h"

#include "abi.h"
#include "sys.h"

#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC    0x800

static bool x2apic;
static uint64_t first_base;
static uint32_t first_svr;

static uint64_t x2_read0(uint64_t reg, uint64_t unused)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"((uint32_t)(MSR_X2APIC + (reg >> 4))));
	return lo;
}

static uint64_t x2_write0(uint64_t reg, uint64_t value)
{
	asm volatile("wrmsr"
		     :
		     : "c"((uint32_t)(MSR_X2APIC + (reg >> 4))), "a"((uint32_t)value),
		     "d"((uint32_t)(value >> 32))
		     : "memory");
	return 0;
}

uint32_t apic_read(unsigned reg)
{
	return x2apic ? (uint32_t)ring0(x2_read0, reg, 0) : read32(LAPIC_BASE + reg);
}

void apic_write(unsigned reg, uint32_t value)
{
	if (x2apic)
		ring0(x2_write0, reg, value);
	else
		write32(LAPIC_BASE + reg, value);
}

void apic_eoi(void)
{
	if (x2apic)
		x2_write0(LAPIC_EOI, 0);
	else
		write32(LAPIC_BASE + LAPIC_EOI, 0);
}

#define VECTOR_PROBE 0x32

static volatile bool in_service;

/* Ring 0, before the EOI. */
static void probe_isr(void)
{
	uint64_t reg = LAPIC_ISR + VECTOR_PROBE / 32 * 0x10;
	uint32_t bits = x2apic ? (uint32_t)x2_read0(reg, 0) : read32(LAPIC_BASE + reg);

	in_service = bits >> (VECTOR_PROBE % 32) & 1;
}

bool apic_ends_by_itself(void)
{
	irq_hook[VECTOR_PROBE] = probe_isr;
	apic_icr(apic_id(), VECTOR_PROBE);
	irq_wait(VECTOR_PROBE, irq_count[VECTOR_PROBE] + 1, 5000);
	return !in_service;
}

bool apic_is_x2apic(void)
{
	return x2apic;
}

void apic_init(void)
{
	uint64_t base = 0;

	if (sys_rdmsr(MSR_APIC_BASE, &base))
		x2apic = base >> 10 & 1;
	if (!first_base) {
		first_base = base;
		first_svr = apic_read(LAPIC_SVR);
	}
	apic_write(LAPIC_TPR, 0);
	apic_write(LAPIC_SVR, 0x100 | VECTOR_SPURIOUS);
}

uint64_t apic_first_base(void)
{
	return first_base;
}

uint32_t apic_first_svr(void)
{
	return first_svr;
}

bool apic_enable_x2apic(void)
{
	uint64_t base;

	if (x2apic)
		return true;
	if (!sys_rdmsr(MSR_APIC_BASE, &base) || !sys_wrmsr(MSR_APIC_BASE, base | 1 << 10 | 1 << 11))
		return false;
	x2apic = true;
	apic_init();
	return true;
}

uint32_t apic_id(void)
{
	uint32_t id = apic_read(LAPIC_ID);

	return x2apic ? id : id >> 24;
}

void apic_icr(uint32_t id, uint32_t low)
{
	if (x2apic) {
		ring0(x2_write0, LAPIC_ICR, (uint64_t)id << 32 | low);
		return;
	}
	write32(LAPIC_BASE + LAPIC_ICR_HI, id << 24);
	write32(LAPIC_BASE + LAPIC_ICR, low);
}

/* KVM's APIC bus has a period of 1 ns; divided by 16, 32 bits are 68 s. */
void apic_timer_start(uint8_t vector, unsigned ms)
{
	uint64_t ticks = ms * 62500ull;

	apic_write(LAPIC_TIMER_DIV, 3);
	apic_write(LAPIC_LVT_TIMER, vector);
	apic_write(LAPIC_TIMER_INIT, ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks);
}

void apic_timer_stop(void)
{
	apic_write(LAPIC_TIMER_INIT, 0);
	apic_write(LAPIC_LVT_TIMER, IOAPIC_MASKED | VECTOR_TIMEOUT);
}

uint32_t ioapic_read(unsigned reg)
{
	write32(IOAPIC_BASE, reg);
	return read32(IOAPIC_BASE + 0x10);
}

void ioapic_write(unsigned reg, uint32_t value)
{
	write32(IOAPIC_BASE, reg);
	write32(IOAPIC_BASE + 0x10, value);
}

void ioapic_route(unsigned pin, uint8_t vector, uint32_t flags)
{
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
	ioapic_write(0x11 + 2 * pin, apic_id() << 24);
	ioapic_write(0x10 + 2 * pin, vector | flags);
}
