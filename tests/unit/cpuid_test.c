/* cpuid_test.c - topology leaves on made-up processors: the linker puts our ioctl() in the place of KVM's */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/vcpu_cpuid.h"

/* What the made-up KVM supports, and what a vCPU was given last. */
static const struct kvm_cpuid_entry2 supported[] = {
	{ .function = 0, .eax = 0x7 },
	{ .function = 1, .ecx = 1u << 3 },
	{ .function = 4, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 1 | 1 << 5 },
	{ .function = 4, .index = 3, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 3 | 3 << 5 },
	{ .function = 0xb, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 77 },
	{ .function = 0xb, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 77 },
	{ .function = 0x80000008, .eax = 0x303030, .ecx = 0x777 },
	{ .function = 0x8000001e },
};
static struct kvm_cpuid_entry2 given[256];
static unsigned nr_given;

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct kvm_cpuid2 *table;
	va_list ap;

	va_start(ap, request);
	table = va_arg(ap, struct kvm_cpuid2 *);
	va_end(ap);
	switch (request) {
	case KVM_GET_SUPPORTED_CPUID:
		assert_true(table->nent >= ARRAY_SIZE(supported));
		memcpy(table->entries, supported, sizeof(supported));
		table->nent = ARRAY_SIZE(supported);
		return 0;
	case KVM_SET_CPUID2:
		assert_true(table->nent <= ARRAY_SIZE(given));
		nr_given = table->nent;
		memcpy(given, table->entries, nr_given * sizeof(given[0]));
		return 0;
	case KVM_CHECK_EXTENSION:
		return 0;
	default:
		errno = EINVAL;
		return -1;
	}
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	static const struct kvm_cpuid_entry2 none;

	for (unsigned i = 0; i < nr_given; i++)
		if (given[i].function == function && given[i].index == index)
			return &given[i];
	return &none;
}

static void make(struct vcpu_topology t, unsigned nr, bool amd, unsigned vcpu)
{
	struct kvm kvm = { .host_is_amd = amd };
	struct cpuid_params p = { .topology = t, .nr_vcpus = nr, .phys_bits = 40 };
	struct err err = { 0 };
	struct cpuid *c;

	assert_int_equal(cpuid_new(&kvm, &p, &c, &err), 0);
	assert_int_equal(cpuid_set(c, 5, vcpu), 0);
	cpuid_free(c);
}

static void ids_have_gaps_where_counts_are_no_powers_of_two(void **state)
{
	const struct vcpu_topology t = { .threads = 3, .cores = 5, .dies = 2, .packages = 2 };
	bool seen[256] = { false };

	for (unsigned i = 0; i < 60; i++) {
		unsigned id = cpuid_apic_id(&t, i);

		assert_in_range(id, i, 255);
		assert_false(seen[id]);
		seen[id] = true;
		assert_int_equal(id >> 6, i / 30);     /* package */
		assert_int_equal(id >> 5 & 1, i / 15 % 2); /* die */
	}
}

static void leaf_b_and_1f_agree_with_the_ids(void **state)
{
	const struct vcpu_topology t = { .threads = 3, .cores = 5, .dies = 2, .packages = 2 };

	make(t, 60, false, 59);
	assert_int_equal(leaf(0xb, 0)->eax, 2);
	assert_int_equal(leaf(0xb, 0)->ebx, 3);
	assert_int_equal(leaf(0xb, 0)->ecx, 1 << 8);
	assert_int_equal(leaf(0xb, 1)->eax, 6);
	assert_int_equal(leaf(0xb, 1)->ebx, 30);
	assert_int_equal(leaf(0xb, 1)->ecx, 1 | 2 << 8);
	assert_int_equal(leaf(0xb, 1)->edx, cpuid_apic_id(&t, 59));
	assert_int_equal(leaf(0x1f, 1)->eax, 5);
	assert_int_equal(leaf(0x1f, 2)->eax, 6);
	assert_int_equal(leaf(0x1f, 2)->ecx, 2 | 5 << 8);
	assert_in_range(leaf(0, 0)->eax, 0x1f, 0x1f);
	assert_int_equal(leaf(1, 0)->ebx >> 24, cpuid_apic_id(&t, 59));
	assert_int_equal(leaf(1, 0)->ebx >> 16 & 0xff, 64);
	assert_false(leaf(1, 0)->ecx & 1u << 3);
}

/* A processor whose highest leaf is 7 gets leaf 0xb all the same: it must be found. */
static void leaf_b_is_within_the_highest_leaf(void **state)
{
	make((struct vcpu_topology){ 0 }, 254, false, 253);
	assert_int_equal(leaf(0, 0)->eax, 0xb);
	assert_int_equal(leaf(0xb, 1)->eax, 8);
	assert_int_equal(leaf(0xb, 1)->ebx, 254);
	assert_int_equal(leaf(0xb, 1)->edx, 253);
	assert_int_equal(leaf(1, 0)->ebx >> 16 & 0xff, 255);
	assert_int_equal(leaf(0x1f, 0)->ecx, 0);
}

static void caches_are_shared_by_cores_and_dies(void **state)
{
	make((struct vcpu_topology){ 2, 4, 2, 1 }, 16, false, 0);
	assert_int_equal(leaf(4, 0)->eax >> 14 & 0xfff, 2 - 1);
	assert_int_equal(leaf(4, 3)->eax >> 14 & 0xfff, 8 - 1);
	/* ids of cores in the package, which has two dies of four */
	assert_int_equal(leaf(4, 0)->eax >> 26, 8 - 1);
}

static void amd_leaves_have_the_width_of_the_id_with_its_gaps(void **state)
{
	make((struct vcpu_topology){ 3, 5, 2, 1 }, 30, true, 29);
	assert_int_equal(leaf(0x80000008, 0)->eax, 0x3028);
	assert_int_equal(leaf(0x80000008, 0)->ecx & 0xff, 29);
	assert_int_equal(leaf(0x80000008, 0)->ecx >> 12 & 0xf, 6);
	assert_int_equal(leaf(0x8000001e, 0)->eax, 1 << 5 | 4 << 2 | 2);
	assert_int_equal(leaf(0x8000001e, 0)->ebx >> 8, 2);
	assert_int_equal(leaf(0x8000001e, 0)->ecx, 1 | 1 << 8);
	/* Reserved on Intel */
	make((struct vcpu_topology){ 3, 5, 2, 1 }, 30, false, 29);
	assert_int_equal(leaf(0x80000008, 0)->ecx, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_have_gaps_where_counts_are_no_powers_of_two),
		cmocka_unit_test(leaf_b_and_1f_agree_with_the_ids),
		cmocka_unit_test(leaf_b_is_within_the_highest_leaf),
		cmocka_unit_test(caches_are_shared_by_cores_and_dies),
		cmocka_unit_test(amd_leaves_have_the_width_of_the_id_with_its_gaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
