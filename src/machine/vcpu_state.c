/*
 * vcpu_state.c - save and restore what KVM keeps of a vCPU
 *
 * A guest reset happens in place: devices stay attached to the VM, so the vCPUs
 * are not made anew but put back to how KVM created them. MSRs that KVM lists but will not
 * take back one by one (they depend on features) are skipped.
 *
 * Spec: Linux Documentation/virt/kvm/api.rst; Xen's PVH ABI; Documentation/arch/x86/boot.rst.
 */
#include "machine/vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

#define MSR_IA32_TSC	    0x10
#define MSR_IA32_TSC_ADJUST 0x3b
#define MSR_MTRR_DEF_TYPE   0x2ff

/* Room for struct kvm_msrs, which ends in an array, with one entry. */
union one_msr {
	struct kvm_msrs head;
	uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	struct kvm_fpu fpu;
	/* what fpu leaves out: vectors beyond SSE's, PKRU; NULL: KVM has none */
	struct kvm_xsave *xsave;
	struct kvm_nested_state nested;
	bool has_lapic, has_events, has_debugregs, has_xcrs, has_nested;
	struct kvm_msrs *msrs;
};

/* Time goes on over a reset, and the TSC with it. */
static bool msr_kept_running(uint32_t index)
{
	return index == MSR_IA32_TSC || index == MSR_IA32_TSC_ADJUST;
}

static struct kvm_msr_list *msr_list(const struct kvm *kvm)
{
	struct kvm_msr_list probe = { .nmsrs = 0 }, *list;

	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, &probe) == 0 || errno != E2BIG)
		return NULL;
	list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
	if (!list)
		return NULL;
	list->nmsrs = probe.nmsrs;
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
		free(list);
		return NULL;
	}
	return list;
}

/*
 * KVM reads a list up to the first MSR it does not have: that one is
 * taken out, and the rest read on.
 */
static void read_msrs(struct kvm_msrs *msrs, int vcpu_fd)
{
	unsigned total = msrs->nmsrs, done = 0, good = 0;
	union one_msr single = { .head.nmsrs = 1 };
	int n = ioctl(vcpu_fd, KVM_GET_MSRS, msrs);

	done = good = n > 0 ? (unsigned)n : 0;
	for (; done < total; done++) {
		single.head.entries[0] = msrs->entries[done];
		if (ioctl(vcpu_fd, KVM_GET_MSRS, &single) == 1)
			msrs->entries[good++] = single.head.entries[0];
	}
	msrs->nmsrs = good;
}

static int capture_msrs(const struct kvm *kvm, int vcpu_fd, struct vcpu_state *s)
{
	struct kvm_msr_list *list = msr_list(kvm);

	s->msrs = calloc(1, sizeof(*s->msrs) +
				    (list ? list->nmsrs : 0) * sizeof(s->msrs->entries[0]));
	if (!s->msrs) {
		free(list);
		return -ENOMEM;
	}
	for (unsigned i = 0; list && i < list->nmsrs; i++)
		if (!msr_kept_running(list->indices[i]))
			s->msrs->entries[s->msrs->nmsrs++].index = list->indices[i];
	free(list);
	read_msrs(s->msrs, vcpu_fd);
	return 0;
}

/* With dynamic components (AMX) the area is longer than the structure says; KVM knows how long. */
static int capture_xsave(const struct kvm *kvm, int vcpu_fd, struct vcpu_state *s)
{
	int size = ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	unsigned long get = size > 0 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) <= 0)
		return 0;
	s->xsave = calloc(1, MAX((size_t)MAX(size, 0), sizeof(*s->xsave)));
	if (!s->xsave)
		return -ENOMEM;
	return ioctl(vcpu_fd, get, s->xsave) < 0 ? -errno : 0;
}

/*
 * Without firmware nobody else switches memory types on, the same on
 * each vCPU: write-back. SDM vol. 3, 12.11.2.1
 */
static void enable_mtrr(int vcpu_fd)
{
	union one_msr msr = { .head.nmsrs = 1 };

	msr.head.entries[0] =
		(struct kvm_msr_entry){ .index = MSR_MTRR_DEF_TYPE, .data = 1u << 11 | 6 };
	if (ioctl(vcpu_fd, KVM_SET_MSRS, &msr) != 1)
		log_debug("KVM takes no MTRR default type");
}

int vcpu_state_capture(const struct kvm *kvm, int vcpu_fd, struct vcpu_state **out)
{
	struct vcpu_state *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	enable_mtrr(vcpu_fd);
	if (ioctl(vcpu_fd, KVM_GET_REGS, &s->regs) < 0 ||
		ioctl(vcpu_fd, KVM_GET_SREGS, &s->sregs) < 0 ||
		ioctl(vcpu_fd, KVM_GET_FPU, &s->fpu) < 0 ||
		ioctl(vcpu_fd, KVM_GET_MP_STATE, &s->mp_state) < 0) {
		rc = -errno;
		goto fail;
	}
	s->has_lapic = !ioctl(vcpu_fd, KVM_GET_LAPIC, &s->lapic);
	s->has_events = !ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &s->events);
	s->has_debugregs = !ioctl(vcpu_fd, KVM_GET_DEBUGREGS, &s->debugregs);
	s->has_xcrs = !ioctl(vcpu_fd, KVM_GET_XCRS, &s->xcrs);
	/* Outside of VMX and SVM operation it is no more than its head. */
	s->nested.size = sizeof(s->nested);
	s->has_nested = !ioctl(vcpu_fd, KVM_GET_NESTED_STATE, &s->nested);
	rc = capture_xsave(kvm, vcpu_fd, s);
	if (!rc)
		rc = capture_msrs(kvm, vcpu_fd, s);
	if (rc)
		goto fail;
	*out = s;
	return 0;
fail:
	vcpu_state_free(s);
	return rc;
}

void vcpu_state_free(struct vcpu_state *s)
{
	if (!s)
		return;
	free(s->xsave);
	free(s->msrs);
	free(s);
}

static void restore_msrs(const struct vcpu_state *s, int vcpu_fd)
{
	union one_msr single = { .head.nmsrs = 1 };
	int n = ioctl(vcpu_fd, KVM_SET_MSRS, s->msrs);

	for (unsigned i = n > 0 ? (unsigned)n : 0; i < s->msrs->nmsrs; i++) {
		single.head.entries[0] = s->msrs->entries[i];
		if (ioctl(vcpu_fd, KVM_SET_MSRS, &single) != 1)
			log_debug("MSR 0x%x does not go back to 0x%llx", s->msrs->entries[i].index,
				(unsigned long long)s->msrs->entries[i].data);
	}
}

int vcpu_state_restore(const struct vcpu_state *s, int vcpu_fd)
{
	struct kvm_vcpu_events none = { .flags = s->events.flags };
	struct kvm_mp_state old;

	/*
	 * INIT and SIPI that the old guest sent and nobody has taken
	 * yet take effect when the state is read.
	 */
	if (ioctl(vcpu_fd, KVM_GET_MP_STATE, &old) < 0)
		return -errno;
	/* A guest that was a hypervisor leaves that first: KVM would refuse its registers. */
	if (s->has_nested && ioctl(vcpu_fd, KVM_SET_NESTED_STATE, &s->nested) < 0)
		return -errno;
	/* Clear what is in flight first: a pending exception must not meet the new registers. */
	if (s->has_events && ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &none) < 0)
		return -errno;
	if (ioctl(vcpu_fd, KVM_SET_REGS, &s->regs) < 0 ||
		ioctl(vcpu_fd, KVM_SET_SREGS, &s->sregs) < 0 ||
		ioctl(vcpu_fd, KVM_SET_FPU, &s->fpu) < 0)
		return -errno;
	if (s->xsave && ioctl(vcpu_fd, KVM_SET_XSAVE, s->xsave) < 0)
		return -errno;
	if (s->has_xcrs)
		ioctl(vcpu_fd, KVM_SET_XCRS, &s->xcrs);
	if (s->has_debugregs)
		ioctl(vcpu_fd, KVM_SET_DEBUGREGS, &s->debugregs);
	/*
	 * The APIC's mode is in sregs, its timer's deadline among the MSRs: registers in between.
	 */
	if (s->has_lapic && ioctl(vcpu_fd, KVM_SET_LAPIC, &s->lapic) < 0)
		return -errno;
	restore_msrs(s, vcpu_fd);
	if (s->has_events && ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &s->events) < 0)
		return -errno;
	return ioctl(vcpu_fd, KVM_SET_MP_STATE, &s->mp_state) < 0 ? -errno : 0;
}

/* --- entering an image --- */

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool code64)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.db = !code64,
		.l = code64,
		.g = 1,
	};
}

enum { SEG_CODE = 0xb, SEG_DATA = 0x3, SEG_BUSY_TSS = 0xb }; /* SDM vol. 3, 3.4.5.1 and 3.5 */

static void enter_segments(struct kvm_sregs *s, const struct boot_entry *e)
{
	s->cs = flat(e->cs, SEG_CODE, e->mode == BOOT_LONG64);
	s->ds = s->es = s->fs = s->gs = s->ss = flat(e->ds, SEG_DATA, false);
	s->tr = (struct kvm_segment){
		.limit = 0x67, .selector = e->tr, .type = SEG_BUSY_TSS, .present = 1
	};
	s->gdt.base = e->gdt_base;
	s->gdt.limit = e->gdt_limit;
	s->idt.base = 0;
	s->idt.limit = 0;
}

enum {
	CR0_PE = 1u << 0,
	CR0_ET = 1u << 4,
	CR0_NE = 1u << 5,
	CR0_WP = 1u << 16,
	CR0_PG = 1u << 31,
	CR4_PAE = 1u << 5,
	EFER_LME = 1u << 8,
	EFER_LMA = 1u << 10,
};

static void enter_mode(struct kvm_sregs *s, const struct boot_entry *e)
{
	s->cr0 = CR0_PE | CR0_ET;
	s->cr3 = 0;
	s->cr4 = 0;
	s->efer = 0;
	if (e->mode != BOOT_LONG64)
		return;
	s->cr0 |= CR0_PG | CR0_NE | CR0_WP;
	s->cr3 = e->cr3;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

int vcpu_state_enter(int vcpu_fd, const struct boot_entry *e)
{
	struct kvm_regs regs = {
		.rip = e->rip, .rsp = e->rsp, .rbx = e->rbx, .rsi = e->rsi, .rflags = 2
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	enter_segments(&sregs, e);
	enter_mode(&sregs, e);
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}
