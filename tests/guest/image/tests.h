/* tests.h - all tests; what each is about stands at the top of its file */
#ifndef GUEST_TESTS_H
#define GUEST_TESTS_H

struct test {
	const char *name;
	void (*run)(void);
};

void test_acpi(void);
void test_apic(void);
void test_bench(void);
void test_boot(void);
void test_chaos(void);
void test_command(void);
void test_cpuid(void);
void test_device(void);
void test_device_return(void);
void test_gpio(void);
void test_gpio_poll(void);
void test_hostile(void);
void test_intremap(void);
void test_intremap_chaos(void);
void test_pci(void);
void test_power(void);
void test_serial(void);
void test_smp(void);
void test_viommu(void);
void test_viommu_kill(void);
void test_viommu_many(void);
void test_viommu_vvu(void);
void test_virtio(void);
void test_virtio_chaos(void);
void test_virtio_disk(void);
void test_virtio_poll(void);
void test_virtio_rng(void);
void test_virtio_shm(void);
void test_vvu(void);
void test_vvu_hostile(void);

#endif
