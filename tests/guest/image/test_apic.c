/* test_apic.c - interrupts that come from nowhere but the processor itself; x2APIC last */
#include "abi.h"
#include "apic.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define VECTOR_TEST  0x60
#define MSR_TSC	     0x10
#define MSR_DEADLINE 0x6e0

static bool in_service_or_requested(uint8_t vector)
{
	unsigned reg = vector / 32 * 0x10;

	return (apic_read(LAPIC_ISR + reg) | apic_read(LAPIC_IRR + reg)) >> (vector % 32) & 1;
}

static void check_self_ipi(const char *mode)
{
	uint32_t before = irq_count[VECTOR_TEST];

	for (unsigned i = 1; i <= 10; i++) {
		apic_icr(apic_id(), VECTOR_TEST);
		irq_wait(VECTOR_TEST, before + i, 5000);
	}
	equal(irq_count[VECTOR_TEST], before + 10, "%s: ten IPIs to itself, ten interrupts", mode);
	ok(!in_service_or_requested(VECTOR_TEST), "%s: none is left over", mode);
}

static void check_timer(const char *mode)
{
	uint32_t before = irq_count[VECTOR_TEST];

	apic_timer_start(VECTOR_TEST, 1);
	for (unsigned i = 0; i < 1000 && irq_count[VECTOR_TEST] == before; i++)
		sys_halt();
	equal(irq_count[VECTOR_TEST], before + 1, "%s: one shot of the timer", mode);
	equal(apic_read(LAPIC_TIMER_NOW), 0, "%s: and it stands", mode);
}

static void check_deadline(const char *mode)
{
	uint32_t before = irq_count[VECTOR_TEST];
	uint64_t now = 0;

	/* The TSC as KVM counts it for this guest: RDTSC in ring 3 is another under a PVM-type KVM.
	 */
	sys_rdmsr(MSR_TSC, &now);
	apic_write(LAPIC_LVT_TIMER, 2u << 17 | VECTOR_TEST);
	if (!ok(sys_wrmsr(MSR_DEADLINE, now + 1000), "%s: a deadline can be set", mode))
		return;
	/* Not by irq_wait(), which uses the timer itself; a deadline that never comes hangs the
	 * test. */
	for (unsigned i = 0; i < 1000 && irq_count[VECTOR_TEST] == before; i++)
		sys_halt();
	equal(irq_count[VECTOR_TEST], before + 1, "%s: one interrupt at the deadline", mode);
	apic_timer_stop();
}

/* Interrupts while ring 3 code runs, not only inside hlt. */
static void check_open(void)
{
	uint32_t before = irq_count[VECTOR_TEST];
	bool seen = false;

	irq_open();
	apic_icr(apic_id(), VECTOR_TEST);
	for (unsigned i = 0; i < 1000000 && !seen; i++)
		seen = irq_count[VECTOR_TEST] != before;
	irq_close();
	ok(seen, "an interrupt comes in the middle of ring 3 code");
}

void test_apic(void)
{
	const char *mode = apic_is_x2apic() ? "x2APIC" : "xAPIC";
	uint32_t before;

	note("version 0x%x, id %u", apic_read(LAPIC_VERSION), apic_id());
	check_self_ipi(mode);
	check_timer(mode);
	check_deadline(mode);
	check_open();
	if (apic_is_x2apic())
		return;
	if (!ok(apic_enable_x2apic(), "x2APIC mode can be switched on"))
		return;
	check_self_ipi("x2APIC");
	check_timer("x2APIC");
	check_deadline("x2APIC");
	before = irq_count[VECTOR_TEST];
	apic_write(LAPIC_SELF_IPI, VECTOR_TEST);
	ok(irq_wait(VECTOR_TEST, before + 1, 5000), "x2APIC: SELF IPI register");
}
