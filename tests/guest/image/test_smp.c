/* test_smp.c - start the other processors, and have all of them at the machine at once */
#include "abi.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "smp.h"
#include "sys.h"
#include "tests.h"

/* What each processor does when asked: accesses that others do at the same time. */
static uint64_t work(uint64_t bridge, uint64_t n)
{
	uint64_t wrong = 0;

	while (n--) {
		outb(MARK_PORT, (uint8_t)n);
		wrong += read32(bridge) != 0x0d578086;
		wrong += read16(bridge + (1 << 12)) != 0xffff;
		wrong += inb(0x510) != 0xff;
	}
	return wrong;
}

void test_smp(void)
{
	unsigned n = smp_count(), online, right_id = 0, finished = 0;
	uint64_t bridge = pci_function(0, 0, 0, 0), wrong = 0, result = 0;

	equal(n + 1, boot_number("cpus", n + 1), "CPUs in the MADT");
	online = smp_start();
	if (!equal(online, n, "all other CPUs come up by INIT and SIPI"))
		return;
	for (unsigned i = 0; i < n; i++)
		right_id += smp_own_id(i) == smp_acpi_id(i);
	equal(right_id, n, "each has the id of its MADT entry");
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < n; i++)
			smp_call(i, work, bridge, 100);
		wrong += work(bridge, 100);
		for (unsigned i = 0; i < n; i++) {
			finished += smp_wait(i, &result);
			wrong += result;
		}
	}
	equal(finished, 20 * n, "20 rounds of work, each started by an IPI");
	equal(wrong, 0, "all CPUs at once see the same machine");
}
