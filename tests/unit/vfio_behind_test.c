/*
 * vfio_behind_test.c - a host device behind the guest's IOMMU: its address space is what the guest
 * maps, in both kinds of the kernel's
 */
#include "vfio_iommu_rig.h"

#include "machine/iommu.h"

#define ENDPOINT 8
#define DOMAIN	 1
#define RW	 (DMA_CAN_READ | DMA_CAN_WRITE)

/* What the guest has beside the rig, whose own address space is for devices that are not behind. */
static struct {
	struct vfio_iommu *io;
	struct iommu *iommu;
	struct dma_space *dma;
	struct vfio_binding b;
} guest;

static struct rig *behind_begin(bool iommufd)
{
	static const struct iommu_resv msi = { 0xfee00000, 0xfeefffff, true };
	const struct iommu_params ip = { .last = UINT64_MAX, .resv = &msi, .nr_resv = 1 };
	struct rig *r = rig_begin(iommufd);

	memset(&guest, 0, sizeof(guest));
	assert_int_equal(dma_space_new(r->memory, "dev0", &guest.dma), 0);
	assert_int_equal(vfio_iommu_new_behind(r->io, guest.dma, &guest.io), 0);
	assert_int_equal(iommu_new(&ip, &guest.iommu), 0);
	return r;
}

static void behind_end(struct rig *r)
{
	iommu_remove(guest.dma);
	vfio_iommu_detach(guest.io, &guest.b);
	vfio_iommu_drop(guest.io);
	dma_space_free(guest.dma);
	iommu_free(guest.iommu);
	rig_end(r);
}

static int attach_card(struct rig *r)
{
	return attach_to(r, guest.io, &card, &guest.b);
}

/* The guest runs and has attached the device to a domain that is empty. */
static struct rig *behind_attached(bool iommufd)
{
	struct rig *r = behind_begin(iommufd);

	assert_int_equal(attach_card(r), 0);
	assert_int_equal(iommu_add(guest.iommu, ENDPOINT, guest.dma), 0);
	assert_int_equal(iommu_attach(guest.iommu, DOMAIN, ENDPOINT, false), 0);
	return r;
}

static int map(uint64_t iova, uint64_t size, uint64_t gpa, unsigned access)
{
	return iommu_map(guest.iommu, DOMAIN, iova, iova + size - 1, gpa, access);
}

static int unmap(uint64_t iova, uint64_t size)
{
	return iommu_unmap(guest.iommu, DOMAIN, iova, iova + size - 1);
}

static const struct fk_map *map_at(const struct rig *r, uint64_t iova)
{
	for (unsigned i = 0; i < r->k.nr_maps; i++)
		if (iova >= r->k.maps[i].iova && iova - r->k.maps[i].iova < r->k.maps[i].size)
			return &r->k.maps[i];
	return NULL;
}

/* --- the good life --- */

static void the_device_reaches_ram_until_the_guest_attaches_it_and_then_what_is_mapped(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_begin(iommufd);

		assert_int_equal(attach_card(r), 0);
		assert_int_equal(iommu_add(guest.iommu, ENDPOINT, guest.dma), 0);
		assert_int_equal(r->k.nr_maps, 1);
		assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
		assert_int_equal(iommu_attach(guest.iommu, DOMAIN, ENDPOINT, false), 0);
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(map(0x100000000, 0x3000, 0x5000, RW), 0);
		assert_int_equal(r->k.nr_maps, 1);
		assert_ptr_equal(map_at(r, 0x100000000)->hva, memory_ptr(r->memory, 0x5000, 1));
		assert_int_equal(map_at(r, 0x100000000)->size, 0x3000);
		assert_int_equal(unmap(0x100000000, 0x3000), 0);
		assert_int_equal(r->k.nr_maps, 0);
		iommu_reset(guest.iommu);
		assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
		iommu_set_bypass(guest.iommu, false);
		assert_int_equal(r->k.nr_maps, 0);
		behind_end(r);
	}
}

static void what_a_domain_holds_is_mapped_when_the_device_is_attached_to_it(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);
		struct dma_space *other;

		assert_int_equal(dma_space_new(r->memory, "dev1", &other), 0);
		assert_int_equal(iommu_add(guest.iommu, ENDPOINT + 1, other), 0);
		assert_int_equal(iommu_attach(guest.iommu, 2, ENDPOINT + 1, false), 0);
		assert_int_equal(iommu_map(guest.iommu, 2, 0x1000, 0x2fff, 0x7000, RW), 0);
		assert_int_equal(iommu_map(guest.iommu, 2, 0x9000, 0x9fff, 0, RW), 0);
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(iommu_attach(guest.iommu, 2, ENDPOINT, false), 0);
		assert_int_equal(r->k.nr_maps, 2);
		assert_true(fk_has_map(&r->k, 0x1000, 0x2000));
		assert_int_equal(iommu_attach(guest.iommu, 3, ENDPOINT, true), 0);
		assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
		assert_int_equal(r->k.nr_maps, 1);
		iommu_remove(other);
		dma_space_free(other);
		behind_end(r);
	}
}

static void access_is_what_the_guest_gives(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);

		for (unsigned access = 1; access <= RW; access++) {
			assert_int_equal(map(access << 12, 0x1000, 0, access), 0);
			assert_int_equal(map_at(r, access << 12)->read, !!(access & DMA_CAN_READ));
			assert_int_equal(
				map_at(r, access << 12)->write, !!(access & DMA_CAN_WRITE));
		}
		behind_end(r);
	}
}

static void what_is_not_ram_is_not_mapped(void **state)
{
	struct rig *r = behind_attached(false);

	assert_int_equal(map(0x1000000, 2 * RAM_SIZE, RAM_SIZE - 0x1000, RW), 0);
	assert_int_equal(r->k.nr_maps, 1);
	assert_true(fk_has_map(&r->k, 0x1000000, 0x1000));
	assert_int_equal(map(0x10000000, 0x1000, 0xe0000000, RW), 0);
	assert_int_equal(r->k.nr_maps, 1);
	assert_int_equal(unmap(0x10000000, 0x1000), 0);
	assert_int_equal(unmap(0x1000000, 2 * RAM_SIZE), 0);
	assert_int_equal(r->k.nr_maps, 0);
	behind_end(r);
}

/* As the guest's tables say, page by page, after any sequence of requests. */
static void the_host_s_tables_are_the_guest_s(void **state)
{
	enum { PAGES = 64 };

	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);

		srand(5);
		for (unsigned round = 0; round < 2000; round++) {
			uint64_t at = (uint64_t)(rand() % PAGES) << 12;
			uint64_t size = (uint64_t)(1 + rand() % 8) << 12;

			if (rand() % 2)
				map(at, size, (uint64_t)(rand() % 4096) << 12, RW);
			else
				unmap(at, size);
			if (round % 100 == 99)
				iommu_attach(guest.iommu, DOMAIN + round % 200, ENDPOINT, false);
			r->k.nr_calls = 0;
			for (uint64_t page = 0; page < (PAGES + 8) << 12; page += 4096) {
				const struct fk_map *m = map_at(r, page);
				uint64_t len = 1, gpa;
				int rc = dma_translate(guest.dma, page, &len, RW, &gpa);

				assert_int_equal(rc, m ? 0 : -EFAULT);
				if (m)
					assert_ptr_equal((const char *)m->hva + (page - m->iova),
						memory_ptr(r->memory, gpa, 1));
			}
		}
		behind_end(r);
	}
}

static void each_has_an_address_space_of_its_own(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);
		struct vfio_binding b;

		assert_int_equal(attach(r, &disk, &b), 0);
		assert_int_equal(fk_nr_open(&r->k, iommufd ? FK_IOMMU : FK_CONTAINER), 2);
		assert_int_equal(fk_nr_kvm(&r->k), 2);
		assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
		assert_int_equal(map(0x1000, 0x1000, 0, RW), 0);
		assert_int_equal(r->k.nr_maps, 2);
		/* Neither has peers. */
		vfio_iommu_map(guest.io, "dev0", 0xc0000000, 0x1000, r);
		vfio_iommu_map(r->io, "dev1", 0xc0000000, 0x1000, r);
		assert_int_equal(r->k.nr_maps, 2);
		/* What it writes is at the guest's addresses. */
		assert_int_equal(vfio_iommu_dirty.start(guest.io), -EOPNOTSUPP);
		vfio_iommu_detach(r->io, &b);
		assert_int_equal(r->k.nr_maps, 1);
		behind_end(r);
	}
}

static void an_iommufd_of_the_caller_has_an_address_space_for_each(void **state)
{
	struct rig *r = behind_begin(true);
	struct vfio_binding b;
	int fd = fk_open(&r->k.sys, "/dev/iommu");

	r->io->given_iommufd = guest.io->given_iommufd = fd;
	assert_int_equal(attach_card(r), 0);
	assert_int_equal(attach(r, &disk, &b), 0);
	assert_int_equal(fk_nr_open(&r->k, FK_IOMMU), 1);
	assert_int_equal(r->k.nr_maps, 2);
	vfio_iommu_detach(r->io, &b);
	assert_int_equal(r->k.nr_maps, 1);
	vfio_iommu_detach(guest.io, &guest.b);
	assert_int_equal(r->k.nr_maps, 0);
	fk_close(&r->k.sys, fd);
	behind_end(r);
}

/* --- limits --- */

static const struct vfio_iova_range ranges[] = { { 0, 0xfedfffff }, { 0xfef00000, 0xfcffffffff },
	{ 0x10000000000, 0x7fffffffffff } };

static void the_guest_hears_of_what_the_host_s_iommu_cannot(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_begin(iommufd);
		struct iommu_resv resv[IOMMU_MAX_ENDPOINT_RESV];

		r->k.nr_ranges = 3;
		memcpy(r->k.ranges, ranges, sizeof(ranges));
		assert_int_equal(attach_card(r), 0);
		assert_true(iommu_last(guest.iommu) == UINT64_MAX);
		assert_int_equal(iommu_add(guest.iommu, ENDPOINT, guest.dma), 0);
		assert_true(iommu_last(guest.iommu) == 0x7fffffffffff);
		assert_int_equal(iommu_reserved(guest.iommu, ENDPOINT + 1, resv), -ENOENT);
		/* The window of interrupts, which is the IOMMU's own, and one more. */
		assert_int_equal(iommu_reserved(guest.iommu, ENDPOINT, resv), 2);
		assert_true(resv[0].msi && resv[0].first == 0xfee00000);
		assert_false(resv[1].msi);
		assert_true(resv[1].first == 0xfd00000000 && resv[1].last == 0xffffffffff);
		assert_int_equal(iommu_attach(guest.iommu, DOMAIN, ENDPOINT, false), 0);
		assert_int_equal(map(0xfd00000000, 0x1000, 0, RW), -EINVAL);
		assert_int_equal(map(0xfcfffff000, 0x2000, 0, RW), -EINVAL);
		assert_int_equal(map(0x800000000000, 0x1000, 0, RW), -ERANGE);
		assert_int_equal(map(0x7ffffffff000, 0x1000, 0, RW), 0);
		assert_int_equal(r->k.nr_maps, 1);
		behind_end(r);
	}
}

static void ranges_that_make_no_sense_are_refused(void **state)
{
	struct rig *r = behind_begin(false);

	r->k.nr_ranges = 2;
	r->k.ranges[0] = (struct vfio_iova_range){ 0, 0xffffffff };
	r->k.ranges[1] = (struct vfio_iova_range){ 0x80000000, UINT64_MAX };
	assert_int_equal(attach_card(r), -EPROTO);
	says(r, "not in ascending order");
	r->k.ranges[1] = (struct vfio_iova_range){ 0x100000000, UINT64_MAX };
	assert_int_equal(attach_card(r), 0);
	behind_end(r);
}

static void an_iommu_that_does_not_fit_is_refused(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_begin(iommufd);

		r->k.page_size = 65536;
		assert_int_equal(attach_card(r), -EOPNOTSUPP);
		says(r, "pages of 65536 bytes at least, expected 4096");
		r->k.page_size = 4096;
		r->k.nr_ranges = 1;
		r->k.ranges[0] = (struct vfio_iova_range){ 0, RAM_SIZE / 2 - 1 };
		assert_int_equal(attach_card(r), -ERANGE);
		says(r, "guest RAM at 0x0 to 0xffffff does not fit");
		assert_int_equal(r->k.nr_maps, 0);
		r->k.nr_ranges = 0;
		assert_int_equal(attach_card(r), 0);
		behind_end(r);
	}
}

static void a_device_without_an_iommu_is_refused(void **state)
{
	struct rig *r = behind_begin(false);

	r->k.noiommu = true;
	guest.io->unsafe_noiommu = true;
	assert_int_equal(attach_card(r), -EINVAL);
	says(r, "it has no IOMMU on the host");
	behind_end(r);
}

static void locked_memory_is_counted_for_each(void **state)
{
	struct rig *r = behind_begin(false);
	struct vfio_binding b;

	r->k.memlock = 2 * RAM_SIZE - 1;
	assert_int_equal(attach(r, &disk, &b), 0);
	assert_int_equal(attach_card(r), -ENOMEM);
	says(r, "33554432 bytes, and the limit is 33554431");
	r->k.memlock++;
	assert_int_equal(attach_card(r), 0);
	vfio_iommu_detach(r->io, &b);
	r->k.memlock = RAM_SIZE;
	assert_int_equal(attach(r, &disk, &b), -ENOMEM);
	vfio_iommu_detach(guest.io, &guest.b);
	assert_int_equal(attach(r, &disk, &b), 0);
	vfio_iommu_detach(r->io, &b);
	behind_end(r);
}

/* --- groups --- */

static void devices_of_one_group_are_not_apart(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_begin(iommufd);
		struct vfio_binding b, c;
		struct vfio_iommu *second;
		struct dma_space *dma;

		assert_int_equal(attach_card(r), 0);
		assert_int_equal(attach(r, &twin, &b), -EBUSY);
		says(r, "0000:01:00.1 is in group 11 of the host's IOMMU");
		says(r, "iommu=on");
		assert_int_equal(dma_space_new(r->memory, "dev1", &dma), 0);
		assert_int_equal(vfio_iommu_new_behind(r->io, dma, &second), 0);
		assert_int_equal(attach_to(r, second, &twin, &b), -EBUSY);
		vfio_iommu_detach(guest.io, &guest.b);
		assert_int_equal(attach(r, &twin, &b), 0);
		assert_int_equal(attach(r, &card, &c), 0);
		assert_int_equal(attach_to(r, second, &card, &guest.b), -EBUSY);
		vfio_iommu_detach(r->io, &c);
		vfio_iommu_detach(r->io, &b);
		assert_int_equal(attach_to(r, second, &card, &b), 0);
		vfio_iommu_detach(second, &b);
		vfio_iommu_drop(second);
		dma_space_free(dma);
		behind_end(r);
	}
}

/* --- what goes wrong --- */

static void a_map_that_the_host_refuses_fails_the_guest_s_request(void **state)
{
	static const int errors[] = { -ENOMEM, -ENOSPC, -EFAULT, -EINVAL };

	for (int iommufd = 0; iommufd < 2; iommufd++)
		for (unsigned e = 0; e < ARRAY_SIZE(errors); e++) {
			struct rig *r = behind_attached(iommufd);

			assert_int_equal(map(0x1000, 0x1000, 0, RW), 0);
			r->k.fail_request = iommufd ? IOMMU_IOAS_MAP : VFIO_IOMMU_MAP_DMA;
			r->k.fail_rc = errors[e];
			assert_int_equal(map(0x2000, 0x1000, 0, RW), errors[e]);
			r->k.fail_rc = 0;
			assert_int_equal(r->k.nr_maps, 1);
			assert_int_equal(map(0x2000, 0x1000, 0, RW), 0);
			assert_int_equal(unmap(0, 0x10000), 0);
			assert_int_equal(r->k.nr_maps, 0);
			behind_end(r);
		}
}

static void a_guest_that_maps_more_than_the_host_has_room_for_is_told(void **state)
{
	struct rig *r = behind_attached(false);

	r->k.max_maps = 3;
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(map(i << 12, 0x1000, 0, RW), 0);
	assert_int_equal(map(0x10000, 0x1000, 0, RW), -ENOSPC);
	assert_int_equal(unmap(0, 0x1000), 0);
	assert_int_equal(map(0x10000, 0x1000, 0, RW), 0);
	behind_end(r);
}

static void what_a_guest_can_have_mapped_is_bounded(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);
		uint64_t i;

		for (i = 0; i < 4; i++)
			assert_int_equal(map(i * RAM_SIZE, RAM_SIZE, 0, RW), 0);
		assert_int_equal(map(i * RAM_SIZE, 0x1000, 0, RW), -ENOSPC);
		assert_int_equal(unmap(0, RAM_SIZE), 0);
		assert_int_equal(map(i * RAM_SIZE, 0x1000, 0, RW), 0);
		assert_int_equal(map((i + 1) * RAM_SIZE, RAM_SIZE, 0, RW), -ENOSPC);
		assert_int_equal(unmap(0, (i + 2) * RAM_SIZE), 0);
		assert_int_equal(map(0, RAM_SIZE, 0, RW), 0);
		behind_end(r);
	}
}

static void an_unmap_that_fails_cuts_the_device_off(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);

		assert_int_equal(map(0x1000, 0x1000, 0, RW), 0);
		assert_int_equal(map(0x2000, 0x1000, 0, RW), 0);
		r->k.fail_nth = r->k.nr_calls + 1;
		r->k.fail_rc = -EBUSY;
		assert_int_equal(unmap(0x1000, 0x1000), 0);
		r->k.fail_rc = 0;
		r->k.fail_nth = 0;
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(map(0x1000, 0x1000, 0, RW), -EIO);
		assert_int_equal(unmap(0x2000, 0x1000), 0);
		iommu_reset(guest.iommu);
		assert_int_equal(r->k.nr_maps, 0);
		behind_end(r);
	}
}

static void any_call_may_fail_and_leaves_nothing(void **state)
{
	static const int errors[] = { -EIO, -ENOMEM, -EBUSY, -ENOENT, -EINVAL };

	for (int iommufd = 0; iommufd < 2; iommufd++)
		for (unsigned e = 0; e < ARRAY_SIZE(errors); e++)
			for (unsigned nth = 1, more = 1; more; nth++) {
				struct rig *r = behind_begin(iommufd);

				r->k.fail_nth = nth;
				r->k.fail_rc = errors[e];
				if (attach_card(r))
					assert_int_not_equal(r->err.text[0], 0);
				more = r->k.nr_calls >= nth;
				vfio_iommu_detach(guest.io, &guest.b);
				assert_int_equal(r->k.nr_maps, 0);
				behind_end(r);
			}
}

static void cancel_at_map(struct fake_kernel *k, unsigned long request)
{
	if (request == VFIO_IOMMU_MAP_DMA)
		atomic_store(&((struct rig *)k->arg)->cancel, true);
}

static void an_attach_that_is_called_off_is_undone(void **state)
{
	struct rig *r = behind_begin(false);

	r->k.before = cancel_at_map;
	r->k.arg = r;
	assert_int_equal(attach_card(r), -ECANCELED);
	assert_int_equal(r->k.nr_maps, 0);
	assert_int_equal(fk_nr_calls(&r->k, VFIO_GROUP_GET_DEVICE_FD), 0);
	behind_end(r);
}

static void *map_and_unmap(void *arg)
{
	for (unsigned i = 0; i < 500; i++) {
		map(0x1000, 0x1000, 0, RW);
		unmap(0x1000, 0x1000);
	}
	return NULL;
}

static void a_device_may_leave_while_the_guest_maps(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = behind_attached(iommufd);
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, map_and_unmap, NULL), 0);
		vfio_iommu_detach(guest.io, &guest.b);
		pthread_join(thread, NULL);
		assert_int_equal(map(0x5000, 0x1000, 0, RW), 0);
		assert_int_equal(r->k.nr_maps, 0);
		behind_end(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			the_device_reaches_ram_until_the_guest_attaches_it_and_then_what_is_mapped),
		cmocka_unit_test(what_a_domain_holds_is_mapped_when_the_device_is_attached_to_it),
		cmocka_unit_test(access_is_what_the_guest_gives),
		cmocka_unit_test(what_is_not_ram_is_not_mapped),
		cmocka_unit_test(the_host_s_tables_are_the_guest_s),
		cmocka_unit_test(each_has_an_address_space_of_its_own),
		cmocka_unit_test(an_iommufd_of_the_caller_has_an_address_space_for_each),
		cmocka_unit_test(the_guest_hears_of_what_the_host_s_iommu_cannot),
		cmocka_unit_test(ranges_that_make_no_sense_are_refused),
		cmocka_unit_test(an_iommu_that_does_not_fit_is_refused),
		cmocka_unit_test(a_device_without_an_iommu_is_refused),
		cmocka_unit_test(locked_memory_is_counted_for_each),
		cmocka_unit_test(devices_of_one_group_are_not_apart),
		cmocka_unit_test(a_map_that_the_host_refuses_fails_the_guest_s_request),
		cmocka_unit_test(a_guest_that_maps_more_than_the_host_has_room_for_is_told),
		cmocka_unit_test(what_a_guest_can_have_mapped_is_bounded),
		cmocka_unit_test(an_unmap_that_fails_cuts_the_device_off),
		cmocka_unit_test(any_call_may_fail_and_leaves_nothing),
		cmocka_unit_test(an_attach_that_is_called_off_is_undone),
		cmocka_unit_test(a_device_may_leave_while_the_guest_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
