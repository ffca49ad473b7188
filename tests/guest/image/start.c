/*
 * start.c - the first C code, and the list of tests
 *
 * The command line names what to do: test=NAME and the test's own options, each as
 * name=value; without a command line, as firmware, it is test=boot. A test ends by
 * returning; then the plan is printed and the machine switched off.
 */
#include "abi.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

struct rela {
	uint64_t offset, info;
	int64_t addend;
};

extern struct rela rela_start[], rela_end[];
extern char bss_start[], bss_end[], image_base[];

void guest_start(int entry, uint64_t info);

static const struct test tests[] = {
	{ "acpi", test_acpi },
	{ "apic", test_apic },
	{ "bench", test_bench },
	{ "boot", test_boot },
	{ "chaos", test_chaos },
	{ "command", test_command },
	{ "cpuid", test_cpuid },
	{ "device", test_device },
	{ "device-return", test_device_return },
	{ "gpio", test_gpio },
	{ "gpio-poll", test_gpio_poll },
	{ "hostile", test_hostile },
	{ "intremap", test_intremap },
	{ "intremap-chaos", test_intremap_chaos },
	{ "pci", test_pci },
	{ "power", test_power },
	{ "serial", test_serial },
	{ "smp", test_smp },
	{ "viommu", test_viommu },
	{ "viommu-kill", test_viommu_kill },
	{ "viommu-many", test_viommu_many },
	{ "viommu-vvu", test_viommu_vvu },
	{ "virtio", test_virtio },
	{ "virtio-chaos", test_virtio_chaos },
	{ "virtio-disk", test_virtio_disk },
	{ "virtio-poll", test_virtio_poll },
	{ "virtio-rng", test_virtio_rng },
	{ "virtio-shm", test_virtio_shm },
	{ "vvu", test_vvu },
	{ "vvu-hostile", test_vvu_hostile },
};

static void run(void)
{
	char buf[32];
	const char *name = boot_option("test", buf, sizeof(buf), "boot");

	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
		if (!strcmp(tests[i].name, name)) {
			note("test %s", name);
			tests[i].run();
			tap_done();
			return;
		}
	}
	printf("not ok - no test is called \"%s\"; there are:", name);
	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
		printf(" %s", tests[i].name);
	printf("\n");
}

/* Only relative relocations: the image refers to nothing else. */
static void relocate(void)
{
	uint64_t delta = (uint64_t)image_base - LINK_BASE;

	for (struct rela *r = rela_start; r < rela_end; r++)
		if ((uint32_t)r->info == 8)
			*(uint64_t *)(r->offset + delta) = (uint64_t)r->addend + delta;
}

/* Ring 3, from entry.S. */
void guest_start(int entry, uint64_t info)
{
	relocate();
	memset(bss_start, 0, (size_t)(bss_end - bss_start));
	sys_init();
	outb(MARK_PORT, MARK_MAIN);
	console_init();
	boot_parse(entry, info);
	apic_init();
	run();
	sys_off();
}
