#include "device/gpio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/util.h"
#include "device/model.h"

enum { OUT, IN, IRQ, FILTER, OUT_HIGH, IN_HIGH, STATUS, FILTER_LOW };

/* A port that remembers the level of the line. */
static bool line;
static int changes;

static void set_intx(struct pci_port *port, bool level)
{
	line = level;
}

static void trigger(struct pci_port *port, enum pci_irq type, unsigned vector)
{
	fail_msg("the card has no vectors");
}

static const struct pci_port_ops port_ops = { .set_intx = set_intx, .trigger = trigger };
static struct pci_port port = { .ops = &port_ops };
static struct pci_model *card;

static void changed(struct pci_model *m, void *arg)
{
	changes++;
}

static struct pci_model *make(struct gpio_config config)
{
	struct pci_model *m = NULL;

	assert_int_equal(gpio_new(&m, &config), 0);
	pci_model_attach(m, &port, NULL);
	m->on_change = changed;
	changes = 0;
	return m;
}

static int set_up(void **state)
{
	card = make((struct gpio_config){ .loopback = true });
	return 0;
}

static int tear_down(void **state)
{
	pci_model_free(card);
	return 0;
}

static uint8_t rd(uint64_t off)
{
	uint8_t v = 0xee;

	assert_int_equal(pci_model_read(card, 2, off, &v, 1), 0);
	return v;
}

static void wr(uint64_t off, uint8_t v)
{
	assert_int_equal(pci_model_write(card, 2, off, &v, 1), 0);
}

static void it_is_the_card_that_linux_looks_for(void **state)
{
	uint32_t v;

	assert_int_equal(pci_model_read(card, PCI_MODEL_CONFIG, 0, &v, 4), 0);
	assert_int_equal(v, 0x0dc8494f);
	assert_int_equal(pci_model_read(card, PCI_MODEL_CONFIG, PCI_BASE_ADDRESS_2, &v, 4), 0);
	assert_int_equal(v, PCI_BASE_ADDRESS_SPACE_IO);
	assert_int_equal(card->regions[2].size, 256);
	assert_int_equal(card->irq_count[PCI_IRQ_INTX], 1);
	assert_int_equal(card->irq_count[PCI_IRQ_MSI] + card->irq_count[PCI_IRQ_MSIX], 0);
}

/* The steps of Linux' driver: disable, clear, then enable, and in its handler look and clear. */
static void an_interrupt_as_the_driver_of_linux_handles_it(void **state)
{
	wr(IRQ, 0);
	wr(IN, 0);
	wr(IN, 0);
	rd(IRQ);
	assert_false(line);
	wr(OUT, 1 << 3);
	assert_true(line);
	assert_int_equal(rd(STATUS) & 0x04, 0x04);
	assert_int_equal(rd(STATUS) & 0x03, 0x01);
	wr(IN, 0);
	assert_false(line);
	assert_int_equal(rd(STATUS), 0);
	assert_int_equal(rd(IN), 1 << 3);
	wr(OUT_HIGH, 1);
	assert_true(line);
	assert_int_equal(rd(STATUS), 0x06);
	wr(IRQ, 0);
	assert_false(line);
}

static void the_command_register_cuts_the_line_off(void **state)
{
	uint16_t disable = PCI_COMMAND_INTX_DISABLE, none = 0, status;

	rd(IRQ);
	wr(OUT, 1);
	assert_true(line);
	assert_int_equal(pci_model_write(card, PCI_MODEL_CONFIG, PCI_COMMAND, &disable, 2), 0);
	assert_false(line);
	assert_int_equal(pci_model_read(card, PCI_MODEL_CONFIG, PCI_STATUS, &status, 2), 0);
	assert_true(status & PCI_STATUS_INTERRUPT);
	assert_int_equal(pci_model_write(card, PCI_MODEL_CONFIG, PCI_COMMAND, &none, 2), 0);
	assert_true(line);
	pci_model_reset(card);
	assert_false(line);
}

static void a_port_that_comes_later_learns_the_level(void **state)
{
	pci_model_detach(card);
	rd(IRQ);
	wr(OUT, 1);
	line = false;
	pci_model_attach(card, &port, NULL);
	assert_true(line);
}

static void what_changes_the_state_says_so(void **state)
{
	rd(OUT);
	rd(IN);
	rd(STATUS);
	assert_int_equal(changes, 0);
	rd(IRQ);
	assert_int_equal(changes, 1);
	rd(FILTER);
	assert_int_equal(changes, 2);
	wr(OUT, 1);
	assert_int_equal(changes, 3);
	pci_model_reset(card);
	assert_int_equal(changes, 4);
}

static void accesses_that_are_none_are_refused(void **state)
{
	uint8_t buf[512] = { 0 };

	assert_int_equal(pci_model_read(card, 2, 0, buf, 257), -EINVAL);
	assert_int_equal(pci_model_read(card, 2, UINT64_MAX, buf, 2), -EINVAL);
	assert_int_equal(pci_model_write(card, 0, 0, buf, 1), -EINVAL);
	assert_int_equal(pci_model_write(card, 9, 0, buf, 1), -EINVAL);
	assert_int_equal(pci_model_read(card, UINT32_MAX, 0, buf, 1), -EINVAL);
	assert_int_equal(pci_model_read(card, 2, 256, buf, 0), 0);
}

static void a_saved_state_makes_the_same_card_again(void **state)
{
	struct pci_model *first = card, *second = make((struct gpio_config){ .loopback = true });
	uint8_t a[256], b[256];
	char text[4096], again[4096];
	struct err err = { 0 };
	uint32_t bar = 0xc000;
	ssize_t len;

	rd(IRQ);
	wr(OUT, 0x5a);
	wr(OUT_HIGH, 0x81);
	rd(FILTER);
	pci_model_write(card, PCI_MODEL_CONFIG, PCI_BASE_ADDRESS_2, &bar, 4);
	len = card->ops->save(card, text, sizeof(text));
	assert_true(len > 0);
	card = second;
	assert_int_equal(card->ops->load(card, text, (size_t)len, &err), 0);
	assert_true(line);
	assert_int_equal(card->ops->save(card, again, sizeof(again)), len);
	assert_memory_equal(text, again, (size_t)len);
	for (int region = 2; region < 8; region += 5) {
		pci_model_read(first, (uint32_t)region, 4, a, 250);
		pci_model_read(second, (uint32_t)region, 4, b, 250);
		assert_memory_equal(a, b, 250);
	}
	pci_model_free(second);
	card = first;
}

static void a_buffer_too_small_for_the_state_says_so(void **state)
{
	char text[4096];
	ssize_t len = card->ops->save(card, text, sizeof(text));

	for (ssize_t size = 0; size <= len; size++)
		assert_int_equal(card->ops->save(card, text, (size_t)size), -ENOSPC);
	assert_int_equal(card->ops->save(card, text, (size_t)len + 1), len);
}

/* Each byte of a good state turned into another: taken or refused, with a text, and never half. */
static void a_damaged_state_is_taken_or_refused_as_a_whole(void **state)
{
	char good[4096], text[4096], before[4096], after[4096];
	ssize_t len;

	rd(IRQ);
	wr(OUT, 0x5a);
	len = card->ops->save(card, good, sizeof(good));
	for (ssize_t at = 0; at < len; at++) {
		static const char with[] = { 0, ' ', '9', '"', '{', '\\', (char)0xff };

		for (size_t i = 0; i < sizeof(with); i++) {
			struct err err = { 0 };
			int rc;

			memcpy(text, good, (size_t)len);
			text[at] = with[i];
			card->ops->save(card, before, sizeof(before));
			rc = card->ops->load(card, text, (size_t)len, &err);
			assert_true(rc == 0 || rc == -EINVAL);
			assert_int_equal(rc != 0, err.text[0] != 0);
			if (!rc)
				continue;
			card->ops->save(card, after, sizeof(after));
			assert_string_equal(before, after);
		}
	}
}

static void the_sample_counts_ones(void **state)
{
	static const uint8_t seen[] = { 1, 0, 0, 0, 0, 1, 1, 0 };

	pci_model_free(card);
	card = make((struct gpio_config){ .sample = true });
	for (size_t i = 0; i < sizeof(seen); i++) {
		wr(OUT, i & 1);
		assert_int_equal(rd(IN) & 1, seen[i]);
	}
	for (int i = 0; i < 12; i++)
		assert_int_equal(rd(OUT) & 1, i / 3 & 1);
}

static void the_row_of_the_table_checks_its_options(void **state)
{
	const struct device_model *row = device_model_find("gpio");
	const char *values[DEVICE_MODEL_MAX_OPTIONS] = { 0 };
	struct pci_model *m = NULL;
	struct err err = { 0 };
	unsigned listed = 0;
	size_t nr;

	device_models(&nr);
	for (size_t i = 0; i < nr; i++)
		listed += device_models(&nr)[i] == row;
	assert_int_equal(listed, 1);
	assert_true(row->nr_options <= DEVICE_MODEL_MAX_OPTIONS);
	assert_null(device_model_find("gpi"));
	values[1] = "12345";
	assert_int_equal(row->new_pci(values, &m, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--inputs: '12345'"));
	values[1] = "0x8001";
	assert_int_equal(row->new_pci(values, &m, NULL), 0);
	pci_model_free(card);
	card = m;
	assert_int_equal(rd(IN), 0x01);
	assert_int_equal(rd(IN_HIGH), 0x80);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(it_is_the_card_that_linux_looks_for),
		TEST(an_interrupt_as_the_driver_of_linux_handles_it),
		TEST(the_command_register_cuts_the_line_off),
		TEST(a_port_that_comes_later_learns_the_level),
		TEST(what_changes_the_state_says_so),
		TEST(accesses_that_are_none_are_refused),
		TEST(a_saved_state_makes_the_same_card_again),
		TEST(a_buffer_too_small_for_the_state_says_so),
		TEST(a_damaged_state_is_taken_or_refused_as_a_whole),
		TEST(the_sample_counts_ones),
		TEST(the_row_of_the_table_checks_its_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
