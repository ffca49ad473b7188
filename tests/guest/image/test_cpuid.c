/* test_cpuid.c - what the processor says of itself; option cpus= */
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

static void check_levels(uint32_t leaf, uint64_t cpus, uint32_t id)
{
	unsigned shift = 0, sub;
	uint32_t count = 0;
	bool growing = true, numbered = true, same_id = true;

	for (sub = 0; sub < 8; sub++) {
		struct cpuid r = sys_cpuid(leaf, sub);

		same_id = same_id && r.edx == id;
		if (!(r.ecx >> 8 & 0xff))
			break;
		growing = growing && (r.eax & 31) >= shift && r.ebx >= count && r.ebx;
		numbered = numbered && (r.ecx & 0xff) == sub;
		shift = r.eax & 31;
		count = r.ebx;
	}
	ok(sub >= 2 && sub < 8, "leaf 0x%x: at least two levels, and an end", leaf);
	ok(growing, "leaf 0x%x: each level holds the one below", leaf);
	ok(numbered, "leaf 0x%x: ECX names the level", leaf);
	ok(same_id, "leaf 0x%x: EDX is the x2APIC id at each level", leaf);
	if (cpus)
		ok(count <= cpus && cpus % count == 0, "leaf 0x%x: packages of %u make %lu CPUs",
			leaf, count, cpus);
	ok(1u << shift >= count, "leaf 0x%x: the id bits are enough", leaf);
}

void test_cpuid(void)
{
	struct cpuid leaf0 = sys_cpuid(0, 0), leaf1 = sys_cpuid(1, 0),
		     hv = sys_cpuid(0x40000000, 0);
	uint64_t cpus = boot_number("cpus", 0);
	uint32_t bits, id = apic_id();

	ok(leaf1.ecx >> 31, "hypervisor bit");
	ok(hv.ebx == 0x4b4d564b && hv.ecx == 0x564b4d56 && hv.edx == 0x4d, "KVM's signature");
	ok(hv.eax >= 0x40000001, "KVM's feature leaf is there");
	ok(leaf1.ecx >> 21 & 1, "x2APIC");
	ok(leaf1.ecx >> 24 & 1, "TSC deadline timer");
	ok(!(leaf1.ecx >> 3 & 1), "no MONITOR");
	equal(leaf1.ebx >> 24, id, "leaf 1 has the APIC id");
	bits = sys_cpuid(0x80000008, 0).eax & 0xff;
	ok(bits >= 32 && bits <= 52, "physical address bits (%u)", bits);
	equal(bits, boot_number("phys_bits", bits), "as many as given");
	ok(leaf0.eax >= 0xb, "there is leaf 0xb");
	check_levels(0xb, cpus, id);
	if (leaf0.eax >= 0x1f && sys_cpuid(0x1f, 0).ebx)
		check_levels(0x1f, cpus, id);
	else
		skip("not on this CPU", "leaf 0x1f");
}
