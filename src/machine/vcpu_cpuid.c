/*
 * vcpu_cpuid.c - KVM's supported CPUID, with topology, ids and the hypervisor's leaves set right
 *
 * Spec: Intel SDM vol. 2A, CPUID (leaves 1, 4, 0xb, 0x1f); AMD APM vol. 3, appendix E
 * (0x80000008, 0x8000001d, 0x8000001e); Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "machine/vcpu_cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "machine/layout.h"

#define MAX_ENTRIES 256

struct cpuid {
	struct vcpu_topology topology; /* never zero */
	unsigned nr_vcpus;
	struct kvm_cpuid2 *table;
};

/* Bits needed to number n things. */
static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

static struct vcpu_topology topology_or_default(const struct vcpu_topology *t, unsigned nr_vcpus)
{
	if (t->threads)
		return *t;
	return (struct vcpu_topology){ .threads = 1, .cores = nr_vcpus, .dies = 1, .packages = 1 };
}

unsigned cpuid_apic_id(const struct vcpu_topology *t, unsigned vcpu)
{
	unsigned thread, core, die, package, shift_core, shift_die, shift_package;

	if (!t->threads)
		return vcpu;
	thread = vcpu % t->threads;
	core = vcpu / t->threads % t->cores;
	die = vcpu / (t->threads * t->cores) % t->dies;
	package = vcpu / (t->threads * t->cores * t->dies);
	shift_core = bits_for(t->threads);
	shift_die = shift_core + bits_for(t->cores);
	shift_package = shift_die + bits_for(t->dies);
	return thread | core << shift_core | die << shift_die | package << shift_package;
}

unsigned cpuid_phys_bits(const struct kvm *kvm, unsigned max)
{
	return MIN(kvm->host_phys_bits, max ? max : LAYOUT_DEFAULT_PHYS_BITS);
}

static struct kvm_cpuid_entry2 *find(struct cpuid *c, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < c->table->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->table->entries[i];

		if (e->function == function &&
			(e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

static void drop(struct cpuid *c, uint32_t function)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->table->nent; i++)
		if (c->table->entries[i].function != function)
			c->table->entries[n++] = c->table->entries[i];
	c->table->nent = n;
}

static struct kvm_cpuid_entry2 *add(struct cpuid *c, uint32_t function, uint32_t index,
	uint32_t flags)
{
	struct kvm_cpuid_entry2 *e;

	if (c->table->nent == MAX_ENTRIES)
		return NULL;
	e = &c->table->entries[c->table->nent++];
	*e = (struct kvm_cpuid_entry2){ .function = function, .index = index, .flags = flags };
	return e;
}

/* --- the same for all vCPUs --- */

static void set_features(const struct kvm *kvm, struct cpuid *c)
{
	struct kvm_cpuid_entry2 *e = find(c, 1, 0);

	if (!e)
		return;
	e->ecx |= 1u << 31; /* hypervisor */
	e->ecx |= 1u << 21; /* x2APIC: KVM emulates it everywhere */
	e->ecx &= ~(1u << 3); /* MONITOR: a guest's idle belongs to the host */
	if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		e->ecx |= 1u << 24;
	if (c->nr_vcpus > 1)
		e->edx |= 1u << 28; /* HTT: the count in EBX is valid */
	else
		e->edx &= ~(1u << 28);
}

/* Bits of an APIC id below those that number packages. */
static unsigned package_shift(const struct vcpu_topology *t)
{
	return bits_for(t->threads) + bits_for(t->cores) + bits_for(t->dies);
}

static void set_address_bits(const struct kvm *kvm, struct cpuid *c, unsigned phys_bits)
{
	const struct vcpu_topology *t = &c->topology;
	struct kvm_cpuid_entry2 *e = find(c, 0x80000008, 0);

	if (!e)
		return;
	e->eax = (e->eax & 0xff00) | phys_bits;
	/*
	 * AMD: ECX has the number of threads less one and the width of the id within the package.
	 */
	e->ecx = 0;
	if (kvm->host_is_amd && c->nr_vcpus > 1)
		e->ecx = ((t->threads * t->cores * t->dies - 1) & 0xff) | package_shift(t) << 12;
}

/* Cache leaves: how many ids share each cache. Levels 1 and 2 belong to a core, 3 to a die. */
static void set_cache_sharing(struct cpuid *c)
{
	const struct vcpu_topology *t = &c->topology;
	unsigned core_ids = 1u << bits_for(t->threads);
	unsigned die_ids = core_ids << bits_for(t->cores);
	unsigned core_bits = bits_for(t->cores) + bits_for(t->dies); /* within the package */

	for (unsigned i = 0; i < c->table->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->table->entries[i];
		unsigned level = e->eax >> 5 & 7, share;

		if ((e->function != 4 && e->function != 0x8000001d) || !(e->eax & 0x1f))
			continue;
		share = level >= 3 ? die_ids : core_ids;
		e->eax = (e->eax & 0x3fff) | (share - 1) << 14;
		if (e->function == 4)
			e->eax |= (MIN(1u << core_bits, 64u) - 1) << 26;
	}
}

/* One sub-leaf of 0xb or 0x1f: a level, how many id bits lie below the next one, how many vCPUs. */
static void add_level(struct cpuid *c, uint32_t leaf, unsigned sub, unsigned type, unsigned shift,
	unsigned nr)
{
	struct kvm_cpuid_entry2 *e = add(c, leaf, sub, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

	if (!e)
		return;
	e->eax = shift;
	e->ebx = nr;
	e->ecx = sub | type << 8;
}

enum { LEVEL_NONE, LEVEL_SMT = 1, LEVEL_CORE = 2, LEVEL_DIE = 5 };

static void set_topology(struct cpuid *c)
{
	const struct vcpu_topology *t = &c->topology;
	unsigned smt = bits_for(t->threads), core = smt + bits_for(t->cores);
	unsigned die = core + bits_for(t->dies);
	bool has_1f = find(c, 0x1f, 0) || t->dies > 1;
	struct kvm_cpuid_entry2 *leaf0 = find(c, 0, 0);

	/* In leaf 0xb the core level covers the whole package; only 0x1f knows dies. */
	drop(c, 0xb);
	add_level(c, 0xb, 0, LEVEL_SMT, smt, t->threads);
	add_level(c, 0xb, 1, LEVEL_CORE, die, t->threads * t->cores * t->dies);
	add_level(c, 0xb, 2, LEVEL_NONE, 0, 0);
	if (leaf0)
		leaf0->eax = MAX(leaf0->eax, 0xbu);
	drop(c, 0x1f);
	drop(c, 0x80000026);
	if (!has_1f || !leaf0 || c->table->nent + 4 > MAX_ENTRIES)
		return;
	leaf0->eax = MAX(leaf0->eax, 0x1fu);
	add_level(c, 0x1f, 0, LEVEL_SMT, smt, t->threads);
	add_level(c, 0x1f, 1, LEVEL_CORE, core, t->threads * t->cores);
	add_level(c, 0x1f, 2, t->dies > 1 ? LEVEL_DIE : LEVEL_NONE, t->dies > 1 ? die : 0,
		t->dies > 1 ? t->threads * t->cores * t->dies : 0);
	add_level(c, 0x1f, 3, LEVEL_NONE, 0, 0);
}

static void set_hypervisor(const struct kvm *kvm, struct cpuid *c)
{
	static const char signature[12] = "KVMKVMKVM\0\0";
	struct kvm_cpuid_entry2 *e = find(c, KVM_CPUID_SIGNATURE, 0), *timing;
	int khz = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_GET_TSC_KHZ);

	if (!e)
		e = add(c, KVM_CPUID_SIGNATURE, 0, 0);
	if (!e)
		return;
	e->eax = KVM_CPUID_FEATURES;
	memcpy(&e->ebx, signature, 4);
	memcpy(&e->ecx, signature + 4, 4);
	memcpy(&e->edx, signature + 8, 4);
	if (khz <= 0)
		return;
	/* 0x40000010: frequencies, as VMware defined it and guests look for it; filled per vCPU. */
	timing = find(c, 0x40000010, 0);
	if (!timing)
		timing = add(c, 0x40000010, 0, 0);
	e = find(c, KVM_CPUID_SIGNATURE, 0);
	if (timing)
		e->eax = 0x40000010;
}

static int get_supported(const struct kvm *kvm, struct cpuid *c, struct err *err)
{
	c->table = calloc(1, sizeof(*c->table) + MAX_ENTRIES * sizeof(c->table->entries[0]));
	if (!c->table)
		return err_set(err, -ENOMEM, "out of memory");
	c->table->nent = MAX_ENTRIES;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, c->table) < 0)
		return err_set(err, -errno, "KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	return 0;
}

int cpuid_new(const struct kvm *kvm, const struct cpuid_params *p, struct cpuid **out,
	struct err *err)
{
	struct cpuid *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	c->nr_vcpus = p->nr_vcpus;
	c->topology = topology_or_default(&p->topology, p->nr_vcpus);
	rc = get_supported(kvm, c, err);
	if (rc) {
		cpuid_free(c);
		return rc;
	}
	set_features(kvm, c);
	set_address_bits(kvm, c, p->phys_bits);
	set_cache_sharing(c);
	set_topology(c);
	set_hypervisor(kvm, c);
	*out = c;
	return 0;
}

void cpuid_free(struct cpuid *c)
{
	if (!c)
		return;
	free(c->table);
	free(c);
}

/* --- one vCPU --- */

static void set_ids(struct cpuid *c, unsigned vcpu)
{
	const struct vcpu_topology *t = &c->topology;
	unsigned id = cpuid_apic_id(t, vcpu);
	unsigned per_package = 1u << package_shift(t);
	unsigned node_shift = bits_for(t->threads) + bits_for(t->cores);

	for (unsigned i = 0; i < c->table->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->table->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0xffff) | MIN(per_package, 255u) << 16 | id << 24;
			break;
		case 0xb:
		case 0x1f:
			e->edx = id;
			break;
		case 0x8000001e:
			/*
			 * extended APIC id; core id and threads per core; node id and nodes per
			 * package
			 */
			e->eax = id;
			e->ebx = (id >> bits_for(t->threads) & 0xff) | (t->threads - 1) << 8;
			e->ecx = (id >> node_shift & 0xff) | MIN(t->dies - 1, 7u) << 8;
			break;
		}
	}
}

int cpuid_set(struct cpuid *c, int vcpu_fd, unsigned vcpu)
{
	struct kvm_cpuid_entry2 *timing = find(c, 0x40000010, 0);

	set_ids(c, vcpu);
	if (timing) {
		int khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ);

		timing->eax = khz > 0 ? (uint32_t)khz : 0;
		timing->ebx = 1000000; /* KVM's local APIC counts at 1 GHz */
	}
	return ioctl(vcpu_fd, KVM_SET_CPUID2, c->table) < 0 ? -errno : 0;
}
