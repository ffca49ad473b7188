/* vcpu_state_test.c - what a guest leaves in a vCPU's registers is gone after a reset; on this machine's KVM */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "machine/vcpu_cpuid.h"
#include "machine/vcpu_state.h"

/* Components of the extended state. SDM vol. 1, 13.1 */
enum { XSTATE_AVX = 2, XSTATE_PKRU = 9 };
/* Where the legacy area ends and the header begins, with the bits of what is not as initialised. */
#define XSAVE_HEADER 512

static struct kvm kvm;
static int vcpu_fd = -1;

/* A vCPU that has all that this KVM supports, or none. */
static int open_kvm(void **state)
{
	struct cpuid_params p = { .topology = { 1, 1, 1, 1 }, .nr_vcpus = 1, .phys_bits = 40 };
	struct err err = { 0 };
	struct cpuid *cpuid;

	if (kvm_open(&kvm, &err))
		return 0;
	vcpu_fd = ioctl(kvm.vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu_fd < 0 || cpuid_new(&kvm, &p, &cpuid, &err))
		return -1;
	cpuid_set(cpuid, vcpu_fd, 0);
	cpuid_free(cpuid);
	return 0;
}

static int close_kvm(void **state)
{
	if (vcpu_fd >= 0)
		close(vcpu_fd);
	kvm_close(&kvm);
	return 0;
}

static uint64_t *xstate_bv(struct kvm_xsave *x)
{
	return (uint64_t *)((uint8_t *)x->region + XSAVE_HEADER);
}

/* Put a pattern into one component. False: this host does not have it. */
static bool use_component(struct kvm_xsave *x, unsigned component, uint8_t pattern)
{
	unsigned size = 0, offset = 0, ecx, edx;

	if (!__get_cpuid_count(0xd, component, &size, &offset, &ecx, &edx) || !size)
		return false;
	assert_true(offset + size <= sizeof(*x));
	memset((uint8_t *)x->region + offset, pattern, size);
	*xstate_bv(x) |= 1ull << component;
	return true;
}

static void vectors_and_protection_keys_are_reset(void **state)
{
	static struct kvm_xsave fresh, used, now;
	struct vcpu_state *s;
	bool any;

	if (vcpu_fd < 0)
		skip();
	assert_int_equal(vcpu_state_capture(&kvm, vcpu_fd, &s), 0);
	if (ioctl(vcpu_fd, KVM_GET_XSAVE, &fresh) < 0) {
		vcpu_state_free(s);
		skip();
	}
	used = fresh;
	any = use_component(&used, XSTATE_AVX, 0x5a);
	any |= use_component(&used, XSTATE_PKRU, 0x04);
	assert_int_equal(ioctl(vcpu_fd, KVM_SET_XSAVE, &used), 0);
	assert_int_equal(ioctl(vcpu_fd, KVM_GET_XSAVE, &now), 0);
	assert_int_equal(!memcmp(&now, &fresh, sizeof(now)), !any);

	assert_int_equal(vcpu_state_restore(s, vcpu_fd), 0);
	assert_int_equal(ioctl(vcpu_fd, KVM_GET_XSAVE, &now), 0);
	assert_memory_equal(&now, &fresh, sizeof(now));
	vcpu_state_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors_and_protection_keys_are_reset),
	};

	return cmocka_run_group_tests(tests, open_kvm, close_kvm);
}
