/*
 * kvm.c - open /dev/kvm, say clearly why it cannot be used, create the VM
 *
 * The VM has KVM's own local APICs, IOAPIC and (unused) PIC: interrupts from
 * devices reach the guest without this process, level-triggered ones included
 * (irqfd with resample). With interrupt remapping it has the local APICs alone.
 */
#include "machine/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR" },
};

/* Name the group that /dev/kvm belongs to: joining it is what the user has to do. */
static int no_permission(struct err *err)
{
	char room[1024], *name = NULL;
	struct group grp, *found = NULL;
	struct stat st;

	if (!stat("/dev/kvm", &st) &&
		!getgrgid_r(st.st_gid, &grp, room, sizeof(room), &found) && found)
		name = grp.gr_name;
	return err_set(err, -EACCES,
		"/dev/kvm: no permission to read and write it; join group \"%s\" (usermod -aG %s USER) "
		"or run as root",
		name ? name : "kvm", name ? name : "kvm");
}

static int open_dev(struct err *err)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case EACCES:
	case EPERM:
		return no_permission(err);
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return err_set(err, -ENODEV,
			"/dev/kvm is missing: is virtualisation switched on in the firmware, and the "
			"module kvm_intel or kvm_amd loaded?");
	default:
		return err_set(err, -errno, "/dev/kvm: %s", strerror(errno));
	}
}

static int check_caps(int fd, struct err *err)
{
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return err_set(err, -ENOTTY, "/dev/kvm has API version %d, expected %d", version,
			KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return err_set(err, -ENOTSUP, "this kernel's KVM lacks %s", needed[i].name);
	return 0;
}

static int check_split_caps(int fd, struct err *err)
{
	if (ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) > 0 &&
		ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_X2APIC_API) > 0)
		return 0;
	return err_set(err, -ENOTSUP,
		"--platform intremap=on: this kernel's KVM lacks KVM_CAP_SPLIT_IRQCHIP or "
		"KVM_CAP_X2APIC_API");
}

static unsigned cap(int fd, int number, unsigned otherwise)
{
	int value = ioctl(fd, KVM_CHECK_EXTENSION, number);

	return value > 0 ? (unsigned)value : otherwise;
}

static void look_at_host(struct kvm *kvm)
{
	unsigned eax, ebx, ecx, edx;

	__cpuid(0, eax, ebx, ecx, edx);
	/* "AuthenticAMD", "HygonGenuine" */
	kvm->host_is_amd = ebx == 0x68747541 || ebx == 0x6f677948;
	__cpuid(1, eax, ebx, ecx, edx);
	kvm->host_is_pvm = !(ecx & 1u << 5); /* no VMX ... */
	if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && ecx & 1u << 2)
		kvm->host_is_pvm = false; /* ... but SVM */
	kvm->host_phys_bits = 36;
	if (__get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx))
		kvm->host_phys_bits = eax & 0xff;
}

static int enable(struct kvm *kvm, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &enable);
}

/*
 * An IOAPIC's level-triggered interrupts need their ends told: as
 * many routes as it has pins, from GSI 0 on.
 */
static int create_irqchip(struct kvm *kvm)
{
	const uint64_t ids = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

	if (!kvm->split_irqchip)
		return ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (enable(kvm, KVM_CAP_SPLIT_IRQCHIP, GSI_IOAPIC_COUNT) < 0)
		return -1;
	return enable(kvm, KVM_CAP_X2APIC_API, ids);
}

/*
 * The kernel measures its TSC twice: roughly as it starts, and well a second or two later. A KVM
 * that is built in keeps the first figure and offers it to its guests. Where the two are more than
 * 250 ppm apart and TSCs cannot be scaled, a vCPU is then refused that rate without a word, and the
 * guest's timers come late by as long as the host has been up. 0 asks for the rate that the host
 * goes by now. Kernels that lack the request leave things as they were.
 */
static void take_hosts_tsc_rate(struct kvm *kvm)
{
	if (ioctl(kvm->vm_fd, KVM_SET_TSC_KHZ, 0) < 0)
		log_debug("KVM gives guests the TSC rate it began with: %s", strerror(errno));
}

static int create_vm(struct kvm *kvm, struct err *err)
{
	uint64_t identity = LAYOUT_KVM_IDENTITY;

	/* A signal that comes while the kernel creates the VM makes it give up: ask again. */
	do
		kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (kvm->vm_fd < 0 && errno == EINTR);
	if (kvm->vm_fd < 0)
		return err_set(err, -errno, "KVM cannot create a virtual machine: %s", strerror(errno));
	if (ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
		ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS) < 0 ||
		create_irqchip(kvm) < 0)
		return err_set(err, -errno, "KVM cannot set up interrupt controllers: %s",
			strerror(errno));
	take_hosts_tsc_rate(kvm);
	return 0;
}

static int open_kvm(struct kvm *kvm, bool split, struct err *err)
{
	int rc;

	*kvm = (struct kvm){ .fd = -1, .vm_fd = -1, .split_irqchip = split };
	kvm->fd = open_dev(err);
	if (kvm->fd < 0)
		return kvm->fd;
	rc = check_caps(kvm->fd, err);
	if (!rc && split)
		rc = check_split_caps(kvm->fd, err);
	if (!rc)
		rc = create_vm(kvm, err);
	if (rc) {
		kvm_close(kvm);
		return rc;
	}
	kvm->run_size = (size_t)ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	kvm->nr_slots = cap(kvm->fd, KVM_CAP_NR_MEMSLOTS, 32);
	kvm->nr_gsi_routes = cap(kvm->fd, KVM_CAP_IRQ_ROUTING, 1024);
	kvm->max_vcpus = cap(kvm->fd, KVM_CAP_MAX_VCPUS, cap(kvm->fd, KVM_CAP_NR_VCPUS, 4));
	kvm->ioeventfd_any_length = cap(kvm->fd, KVM_CAP_IOEVENTFD_ANY_LENGTH, 0);
	look_at_host(kvm);
	return 0;
}

int kvm_open(struct kvm *kvm, struct err *err)
{
	return open_kvm(kvm, false, err);
}

int kvm_open_split(struct kvm *kvm, struct err *err)
{
	return open_kvm(kvm, true, err);
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->vm_fd > 0)
		fd_close(&kvm->vm_fd);
	if (kvm->fd > 0)
		fd_close(&kvm->fd);
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg)
{
	int rc = ioctl(kvm->vm_fd, request, arg);

	return rc < 0 ? -errno : rc;
}
