/* smp.c - see smp.h; the real-mode part is in traps.S */
#include "smp.h"

#include "abi.h"
#include "acpi.h"
#include "apic.h"
#include "print.h"
#include "sys.h"

#define VECTOR_WORK 0x64

struct ap_args {
	uint64_t stacks, entry;
	uint32_t cr3, ticket;
	uint16_t gdt_limit;
	uint32_t gdt_base;
} __attribute__((packed));

struct mailbox {
	uint32_t online, acpi_id, own_id;
	uint32_t asked, done;
	uint64_t (*fn)(uint64_t, uint64_t);
	uint64_t a, b, result;
};

extern const char ap_start[], ap_args[], ap_end[];
extern uint64_t gdt[], page_pml4[];

static volatile struct mailbox boxes[SMP_MAX];
static unsigned nr_cpus;
static uint8_t ap_stacks[SMP_MAX][STACK_SIZE] __attribute__((aligned(16)));

static void ap_main(uint32_t ticket)
{
	volatile struct mailbox *box = &boxes[ticket];
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idtr = { 4095, sys_idt() };

	asm volatile("lidt %0" : : "m"(idtr));
	apic_init();
	box->own_id = apic_id();
	box->online = 1;
	for (;;) {
		asm volatile("sti; hlt; cli" : : : "memory");
		if (box->done != box->asked) {
			box->result = box->fn(box->a, box->b);
			box->done++;
		}
	}
}

static void prepare(void)
{
	struct ap_args *args;

	memcpy((void *)AP_START, ap_start, (size_t)(ap_end - ap_start));
	args = (struct ap_args *)(AP_START + (uint64_t)(ap_args - ap_start));
	*args = (struct ap_args){ .stacks = (uint64_t)ap_stacks,
		.entry = (uint64_t)ap_main,
		.cr3 = (uint32_t)(uint64_t)page_pml4,
		.gdt_limit = GDT_SIZE - 1,
		.gdt_base = (uint32_t)(uint64_t)gdt };
}

/* Until *word has value or ten seconds are over. */
static bool reach(volatile uint32_t *word, uint32_t value)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (*word == value)
			return true;
		apic_timer_start(VECTOR_TIMEOUT, 1);
		sys_halt();
	}
	return *word == value;
}

unsigned smp_count(void)
{
	uint64_t madt = acpi_table("APIC", 0), end = madt ? madt + read32(madt + 4) : 0;

	nr_cpus = 0;
	for (uint64_t e = madt + 44; e + 2 <= end && read8(e + 1) >= 2; e += read8(e + 1)) {
		bool x2 = read8(e) == 9;
		uint32_t id = x2 ? read32(e + 4) : read8(e + 3);
		uint32_t flags = read32(e + (x2 ? 8 : 4));

		if ((x2 || read8(e) == 0) && flags & 1 && id != apic_id() && nr_cpus < SMP_MAX)
			boxes[nr_cpus++].acpi_id = id;
	}
	return nr_cpus;
}

unsigned smp_start(void)
{
	unsigned n = smp_count();

	prepare();
	for (unsigned i = 0; i < n; i++) {
		apic_icr(boxes[i].acpi_id, 0x4500);
		apic_icr(boxes[i].acpi_id, 0x4600 | AP_START >> 12);
		apic_icr(boxes[i].acpi_id, 0x4600 | AP_START >> 12);
		/* One at a time, so that ticket i is processor i's. */
		if (!reach(&boxes[i].online, 1))
			return i;
	}
	return n;
}

uint32_t smp_acpi_id(unsigned i)
{
	return boxes[i].acpi_id;
}

uint32_t smp_own_id(unsigned i)
{
	return boxes[i].own_id;
}

void smp_call(unsigned i, uint64_t (*fn)(uint64_t, uint64_t), uint64_t a, uint64_t b)
{
	boxes[i].fn = fn;
	boxes[i].a = a;
	boxes[i].b = b;
	boxes[i].asked++;
	apic_icr(boxes[i].acpi_id, VECTOR_WORK);
}

bool smp_wait(unsigned i, uint64_t *result)
{
	if (!reach(&boxes[i].done, boxes[i].asked))
		return false;
	*result = boxes[i].result;
	return true;
}
