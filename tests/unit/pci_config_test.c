#include "device/pci_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

static struct pci_config c;

static int set_up(void **state)
{
	static const struct pci_ids ids = { 0x1234, 0x5678, 0x9abc, 0xdef0, 0x010802, 3 };

	pci_config_init(&c, PCI_CONFIG_CONVENTIONAL, &ids);
	return 0;
}

static uint32_t read32(uint32_t off)
{
	uint32_t v;

	pci_config_read(&c, off, &v, 4);
	return v;
}

static void write32(uint32_t off, uint32_t v)
{
	pci_config_write(&c, off, &v, 4);
}

static void the_header_tells_what_it_is(void **state)
{
	assert_int_equal(read32(PCI_VENDOR_ID), 0x56781234);
	assert_int_equal(read32(PCI_CLASS_REVISION), 0x01080203);
	assert_int_equal(read32(PCI_SUBSYSTEM_VENDOR_ID), 0xdef09abc);
	assert_int_equal(read32(PCI_COMMAND), 0);
}

static void identity_can_not_be_written(void **state)
{
	for (uint32_t off = 0; off < c.size; off += 4)
		write32(off, UINT32_MAX);
	assert_int_equal(read32(PCI_VENDOR_ID), 0x56781234);
	assert_int_equal(read32(PCI_CLASS_REVISION), 0x01080203);
	assert_int_equal(read32(PCI_STATUS - 2), 0x0547);
	assert_int_equal(read32(PCI_BASE_ADDRESS_0), 0);
	assert_int_equal(read32(PCI_INTERRUPT_LINE), 0xff);
	assert_int_equal(read32(0xfc), 0);
}

static void bars_are_sized_by_writing_ones(void **state)
{
	pci_config_add_bar(&c, 0, 0x4000, PCI_BASE_ADDRESS_MEM_TYPE_64);
	pci_config_add_bar(&c, 2, 256, PCI_BASE_ADDRESS_SPACE_IO);
	pci_config_add_bar(&c, 3, 16, 0);
	pci_config_add_bar(&c, 4, 1ull << 33, PCI_BASE_ADDRESS_MEM_TYPE_64);
	for (uint32_t i = 0; i < 6; i++)
		write32(PCI_BASE_ADDRESS_0 + 4 * i, UINT32_MAX);
	assert_int_equal(read32(PCI_BASE_ADDRESS_0), 0xffffc004);
	assert_int_equal(read32(PCI_BASE_ADDRESS_1), 0xffffffff);
	assert_int_equal(read32(PCI_BASE_ADDRESS_2), 0xffffff01);
	assert_int_equal(read32(PCI_BASE_ADDRESS_3), 0xfffffff0);
	assert_int_equal(read32(PCI_BASE_ADDRESS_4), 0x00000004);
	assert_int_equal(read32(PCI_BASE_ADDRESS_5), 0xfffffffe);
}

static void capabilities_are_chained(void **state)
{
	static const uint8_t body[6] = { 1, 2, 3, 4, 5, 6 }, mask[6] = { 0, 0xff, 0, 0, 0, 0x0f };
	uint32_t first = pci_config_add_cap(&c, PCI_CAP_ID_PM, body, NULL, 6);
	uint32_t second = pci_config_add_cap(&c, PCI_CAP_ID_MSIX, body, mask, 6);
	uint8_t at, head[2];

	assert_true(pci_config_get16(&c, PCI_STATUS) & PCI_STATUS_CAP_LIST);
	pci_config_read(&c, PCI_CAPABILITY_LIST, &at, 1);
	assert_int_equal(at, first);
	pci_config_read(&c, at, head, 2);
	assert_int_equal(head[0], PCI_CAP_ID_PM);
	assert_int_equal(head[1], second);
	pci_config_read(&c, second, head, 2);
	assert_int_equal(head[0], PCI_CAP_ID_MSIX);
	assert_int_equal(head[1], 0);
	write32(second, UINT32_MAX);
	write32(second + 4, UINT32_MAX);
	assert_int_equal(read32(second), 0xff010011);
	assert_int_equal(read32(second + 4), 0x0f050403 & 0x0fffffff);
}

static void a_reset_brings_back_what_the_model_put_in(void **state)
{
	pci_config_add_bar(&c, 2, 256, PCI_BASE_ADDRESS_SPACE_IO);
	pci_config_set_pin(&c, 1);
	write32(PCI_COMMAND, 0x407);
	write32(PCI_BASE_ADDRESS_2, 0xc000);
	write32(PCI_INTERRUPT_LINE, 11);
	pci_config_set16(&c, PCI_STATUS, PCI_STATUS_INTERRUPT);
	pci_config_reset(&c);
	assert_int_equal(read32(PCI_COMMAND), 0);
	assert_int_equal(read32(PCI_BASE_ADDRESS_2), 1);
	assert_int_equal(read32(PCI_INTERRUPT_LINE), 0x100);
}

static void accesses_of_any_width_and_alignment_work(void **state)
{
	uint8_t all[256], three[3] = { 0xff, 0xff, 0xff };

	pci_config_write(&c, PCI_COMMAND + 1, three, 3);
	pci_config_read(&c, 0, all, sizeof(all));
	assert_int_equal(all[PCI_COMMAND], 0);
	assert_int_equal(all[PCI_COMMAND + 1], 0x05);
	assert_int_equal(all[PCI_STATUS + 1], 0);
}

static void the_text_brings_back_writable_bits_only(void **state)
{
	char text[2 * PCI_CONFIG_CONVENTIONAL + 1];

	pci_config_add_bar(&c, 2, 256, PCI_BASE_ADDRESS_SPACE_IO);
	write32(PCI_BASE_ADDRESS_2, 0xc000);
	pci_config_to_hex(&c, text);
	assert_int_equal(strlen(text), 512);
	pci_config_reset(&c);
	memcpy(text, "ffff", 4); /* a vendor it has not */
	assert_int_equal(pci_config_from_hex(&c, text), 0);
	assert_int_equal(read32(PCI_BASE_ADDRESS_2), 0xc001);
	assert_int_equal(read32(PCI_VENDOR_ID), 0x56781234);

	text[100] = 'g';
	assert_int_equal(pci_config_from_hex(&c, text), -EINVAL);
	text[100] = 'A';
	assert_int_equal(pci_config_from_hex(&c, text), -EINVAL);
	assert_int_equal(pci_config_from_hex(&c, text + 1), -EINVAL);
	assert_int_equal(pci_config_from_hex(&c, ""), -EINVAL);
}

#define TEST(f) cmocka_unit_test_setup(f, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_header_tells_what_it_is),
		TEST(identity_can_not_be_written),
		TEST(bars_are_sized_by_writing_ones),
		TEST(capabilities_are_chained),
		TEST(a_reset_brings_back_what_the_model_put_in),
		TEST(accesses_of_any_width_and_alignment_work),
		TEST(the_text_brings_back_writable_bits_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
