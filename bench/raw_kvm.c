/*
 * raw_kvm.c - run a bench image on KVM with nothing around it
 *
 *   raw_kvm IMAGE.bzimage [COMMAND LINE]
 *
 * The peer of the VMM when the cost of an exit or of a start is measured: the same guest and the
 * same kernel work (one vCPU, KVM's own interrupt controllers, 512 MiB), but in user space only a
 * loop that knows three ports: the first serial port (to stdout), its status, and the one by which
 * the guest powers off. Everything else reads all-ones.
 *
 * After the guest's own lines comes {"tsc_khz": N}: the rate of the time stamp counter that the
 * guest read.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* As much as the VMM is given: the kernel keeps tables of it. */
#define RAM_SIZE    (512ul << 20)
#define GDT	    0x500
#define ZERO_PAGE   0x7000
#define PAGE_TABLES 0x9000
#define CMDLINE	    0x20000
#define IMAGE	    0x100000
#define SETUP_SIZE  0x400 /* of both images */
#define ENTRY64	    0x200

struct vm {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	uint8_t *ram;
};

static void check(long rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "raw_kvm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int call(int fd, unsigned long request, void *arg, const char *what)
{
	int rc = ioctl(fd, request, arg);

	check(rc, what);
	return rc;
}
#define CALL(fd, request, arg) call(fd, request, (void *)(uintptr_t)(arg), #request)

/* --- what the 64-bit boot protocol wants in memory --- */

static void load_image(struct vm *vm, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	check(fd, path);
	check(pread(fd, vm->ram + IMAGE, RAM_SIZE - IMAGE, SETUP_SIZE), path);
	close(fd);
}

/* One to one: 4 GiB by pages of 2 MiB. */
static void fill_tables(struct vm *vm)
{
	uint64_t *pml4 = (uint64_t *)(vm->ram + PAGE_TABLES), *pdpt = pml4 + 512, *pd = pdpt + 512;
	uint64_t *gdt = (uint64_t *)(vm->ram + GDT);

	pml4[0] = (PAGE_TABLES + 0x1000) | 3;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (PAGE_TABLES + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 2048; i++)
		pd[i] = i << 21 | 0x83;
	gdt[2] = 0x00af9b000000ffff;
	gdt[3] = 0x00cf93000000ffff;
}

static void fill_zero_page(struct vm *vm, const char *cmdline)
{
	const uint32_t ptr = CMDLINE;

	memcpy(vm->ram + ZERO_PAGE + 0x228, &ptr, sizeof(ptr));
	snprintf((char *)vm->ram + CMDLINE, 2048, "%s", cmdline);
}

/* --- the machine --- */

static void create(struct vm *vm)
{
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_SIZE };
	int size;

	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	check(vm->kvm, "/dev/kvm");
	vm->vm = CALL(vm->kvm, KVM_CREATE_VM, 0);
	CALL(vm->vm, KVM_SET_TSS_ADDR, 0xf8000000);
	CALL(vm->vm, KVM_CREATE_IRQCHIP, 0);
	vm->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(vm->ram == MAP_FAILED ? -1 : 0, "RAM");
	slot.userspace_addr = (uintptr_t)vm->ram;
	CALL(vm->vm, KVM_SET_USER_MEMORY_REGION, &slot);
	vm->vcpu = CALL(vm->vm, KVM_CREATE_VCPU, 0);
	size = CALL(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	check(vm->run == MAP_FAILED ? -1 : 0, "vCPU");
}

static void set_cpuid(struct vm *vm)
{
	static union {
		struct kvm_cpuid2 head;
		uint8_t room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid;

	cpuid.head.nent = 256;
	CALL(vm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	CALL(vm->vcpu, KVM_SET_CPUID2, &cpuid);
}

static void set_registers(struct vm *vm)
{
	struct kvm_regs regs = { .rip = IMAGE + ENTRY64, .rsi = ZERO_PAGE, .rflags = 2 };
	struct kvm_sregs s;

	CALL(vm->vcpu, KVM_GET_SREGS, &s);
	s.cs = (struct kvm_segment){
		.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	s.ds = (struct kvm_segment){
		.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	s.es = s.fs = s.gs = s.ss = s.ds;
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 31 };
	s.cr3 = PAGE_TABLES;
	s.cr4 = 0x20;	    /* PAE */
	s.cr0 = 0x80000011; /* PG, ET, PE */
	s.efer = 0x500;	    /* LMA, LME */
	CALL(vm->vcpu, KVM_SET_SREGS, &s);
	CALL(vm->vcpu, KVM_SET_REGS, &regs);
}

/* --- running it --- */

/* False: the guest has powered off. */
static bool port_access(struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	size_t len = (size_t)run->io.size * run->io.count;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, 0xff, len);
	} else if (run->io.port == 0x3f8) {
		putchar(*data);
	} else if (run->io.port == 0x600) {
		return false;
	}
	return true;
}

static void run_guest(struct vm *vm)
{
	for (;;) {
		if (ioctl(vm->vcpu, KVM_RUN, 0) < 0) {
			if (errno != EINTR && errno != EAGAIN)
				check(-1, "KVM_RUN");
			continue;
		}
		switch (vm->run->exit_reason) {
		case KVM_EXIT_IO:
			if (!port_access(vm->run))
				return;
			break;
		case KVM_EXIT_MMIO:
			if (!vm->run->mmio.is_write)
				memset(vm->run->mmio.data, 0xff, sizeof(vm->run->mmio.data));
			break;
		default:
			fprintf(stderr, "raw_kvm: the guest ended by exit reason %u\n",
				vm->run->exit_reason);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	struct vm vm;

	if (argc != 2 && argc != 3) {
		fputs("usage: raw_kvm IMAGE.bzimage [COMMAND LINE]\n", stderr);
		return 2;
	}
	create(&vm);
	set_cpuid(&vm);
	load_image(&vm, argv[1]);
	fill_tables(&vm);
	fill_zero_page(&vm, argc == 3 ? argv[2] : "");
	set_registers(&vm);
	run_guest(&vm);
	printf("{\"tsc_khz\": %d}\n", CALL(vm.vcpu, KVM_GET_TSC_KHZ, 0));
	return 0;
}
