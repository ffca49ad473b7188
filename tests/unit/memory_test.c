/* memory_test.c - guest RAM: the hole, translation, listeners, KVM's slots */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "machine/layout.h"
#include "machine/memory.h"

static struct kvm kvm;
static bool no_kvm;

static int open_kvm(void **state)
{
	struct err err = { 0 };

	no_kvm = kvm_open(&kvm, &err) != 0;
	return 0;
}

static int close_kvm(void **state)
{
	kvm_close(&kvm);
	return 0;
}

static struct memory *ram(uint64_t size)
{
	struct memory_params p = { .size = size };
	struct memory *m = NULL;
	struct err err = { 0 };

	assert_int_equal(memory_new(&kvm, &p, &m, &err), 0);
	return m;
}

static void host_and_guest_addresses_are_alike_in_their_huge_pages(void **state)
{
	static const uint64_t sizes[] = { 4096, 3 * MIB, 64 * MIB + 4096, LAYOUT_HOLE + 2 * MIB };

	if (no_kvm)
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct memory *m = ram(sizes[i]);

		for (unsigned r = 0; r < memory_nr_ranges(m); r++) {
			const struct mem_range *range = memory_range(m, r);

			assert_int_equal((uintptr_t)range->hva % (2 * MIB), range->gpa % (2 * MIB));
		}
		memory_free(m);
	}
}

static unsigned nr_resident(const char *hva, uint64_t size)
{
	static unsigned char pages[8 * MIB / 4096];
	unsigned n = 0;

	assert_int_equal(mincore((void *)hva, size, pages), 0);
	for (uint64_t i = 0; i < size / 4096; i++)
		n += pages[i] & 1;
	return n;
}

/* How much of it, in huge pages, is the kernel's to say; some of each, and none without thp. */
static void what_is_about_to_be_pinned_is_gathered_and_kept(void **state)
{
	const uint64_t size = 8 * MIB;

	if (no_kvm)
		skip();
	for (int thp = 0; thp < 2; thp++) {
		struct memory_params p = { .size = size, .thp = thp };
		struct memory *m = NULL;
		struct err err = { 0 };
		char *hva;

		assert_int_equal(memory_new(&kvm, &p, &m, &err), 0);
		hva = memory_ptr(m, 0, size);
		memcpy(hva + 3 * MIB, "kept", 4);
		memory_gather(m, 0, size);
		memory_gather(m, 4096, size);
		memory_gather(m, size, MIB);
		assert_memory_equal(hva + 3 * MIB, "kept", 4);
		if (thp)
			assert_true(nr_resident(hva, size) >= 4);
		else
			assert_int_equal(nr_resident(hva, size), 1);
		memory_free(m);
	}
}

static void ram_up_to_the_hole_is_one_range_and_beyond_it_two(void **state)
{
	struct memory *m;

	if (no_kvm)
		skip();
	m = ram(LAYOUT_HOLE);
	assert_int_equal(memory_nr_ranges(m), 1);
	assert_int_equal(memory_top(m), LAYOUT_HOLE);
	memory_free(m);
	m = ram(LAYOUT_HOLE + 4096);
	assert_int_equal(memory_nr_ranges(m), 2);
	assert_int_equal(memory_range(m, 1)->gpa, 4 * GIB);
	assert_int_equal(memory_range(m, 1)->size, 4096);
	assert_int_equal(memory_range(m, 1)->fd_offset, LAYOUT_HOLE);
	assert_int_equal(memory_top(m), 4 * GIB + 4096);
	memory_free(m);
}

static void translation_refuses_what_is_not_all_ram(void **state)
{
	struct memory *m;
	char buf[16] = { 0 };

	if (no_kvm)
		skip();
	m = ram(LAYOUT_HOLE + 4096);
	assert_non_null(memory_ptr(m, LAYOUT_HOLE - 16, 16));
	assert_null(memory_ptr(m, LAYOUT_HOLE - 15, 16));
	assert_null(memory_ptr(m, LAYOUT_HOLE, 1));
	assert_null(memory_ptr(m, 4 * GIB, UINT64_MAX));
	assert_null(memory_ptr(m, UINT64_MAX, 2));
	assert_int_equal(memory_write(m, 4 * GIB + 4080, "0123456789abcdef", 16), 0);
	assert_int_equal(memory_read(m, 4 * GIB + 4080, buf, 16), 0);
	assert_memory_equal(buf, "0123456789abcdef", 16);
	assert_int_equal(memory_write(m, 4 * GIB + 4081, buf, 16), -EFAULT);
	assert_int_equal(memory_read(m, LAYOUT_HOLE, buf, 1), -EFAULT);
	memory_free(m);
}

static void a_peer_cannot_resize_the_file_behind_ram(void **state)
{
	struct memory *m;

	if (no_kvm)
		skip();
	m = ram(2 * MIB);
	assert_int_equal(ftruncate(memory_range(m, 0)->fd, 4096), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(memory_range(m, 0)->fd, 4 * MIB), -1);
	memory_free(m);
}

static void more_than_the_host_has_is_refused_with_both_numbers(void **state)
{
	struct memory_params p = { .size = 1ull << 50 };
	struct memory *m = NULL;
	struct err err = { 0 };

	if (no_kvm)
		skip();
	assert_int_equal(memory_new(&kvm, &p, &m, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "size=1048576G"));
	assert_non_null(strstr(err.text, "this host has"));
}

static void slots_do_not_overlap_and_come_back(void **state)
{
	struct memory *m;
	void *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int slot;

	if (no_kvm)
		skip();
	m = ram(2 * MIB);
	assert_int_equal(memory_slot_add(m, MIB, 4096, page, false), -EEXIST);
	for (unsigned round = 0; round < 2000; round++) {
		slot = memory_slot_add(m, LAYOUT_MMIO32, 8192, page, round & 1);
		assert_true(slot > 0);
		assert_int_equal(memory_slot_add(m, LAYOUT_MMIO32 + 4096, 4096, page, false),
			-EEXIST);
		memory_slot_remove(m, slot);
	}
	memory_free(m);
	munmap(page, 8192);
}

struct spy {
	struct memory_listener l;
	int begins, commits, adds;
	uint64_t bytes;
};

static void on_begin(struct memory_listener *l)
{
	container_of(l, struct spy, l)->begins++;
}

static void on_commit(struct memory_listener *l)
{
	container_of(l, struct spy, l)->commits++;
}

static void on_add(struct memory_listener *l, const struct mem_range *r)
{
	struct spy *s = container_of(l, struct spy, l);

	s->adds++;
	s->bytes += r->size;
}

static void a_listener_hears_of_all_ram_in_one_transaction(void **state)
{
	struct spy s = { .l = { .begin = on_begin, .add = on_add, .commit = on_commit } };
	struct memory *m;

	if (no_kvm)
		skip();
	m = ram(LAYOUT_HOLE + MIB);
	memory_listen(m, &s.l);
	assert_int_equal(s.begins, 1);
	assert_int_equal(s.adds, 2);
	assert_int_equal(s.commits, 1);
	assert_int_equal(s.bytes, LAYOUT_HOLE + MIB);
	memory_unlisten(m, &s.l);
	memory_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_and_guest_addresses_are_alike_in_their_huge_pages),
		cmocka_unit_test(what_is_about_to_be_pinned_is_gathered_and_kept),
		cmocka_unit_test(ram_up_to_the_hole_is_one_range_and_beyond_it_two),
		cmocka_unit_test(translation_refuses_what_is_not_all_ram),
		cmocka_unit_test(a_peer_cannot_resize_the_file_behind_ram),
		cmocka_unit_test(more_than_the_host_has_is_refused_with_both_numbers),
		cmocka_unit_test(slots_do_not_overlap_and_come_back),
		cmocka_unit_test(a_listener_hears_of_all_ram_in_one_transaction),
	};

	return cmocka_run_group_tests(tests, open_kvm, close_kvm);
}
