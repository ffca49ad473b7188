/*
 * vfio_iommu_test.c - host devices and guest RAM in one address space: every order of coming, going
 * and failing
 */
#include "vfio_iommu_rig.h"

/* --- coming and going --- */

static void maps_all_ram_for_the_first_device_and_none_for_the_second(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a, b;

		r->io->listener.add(&r->io->listener, &high);
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(attach(r, &card, &a), 0);
		assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
		assert_true(fk_has_map(&r->k, high.gpa, high.size));
		assert_int_equal(attach(r, &disk, &b), 0);
		assert_int_equal(r->k.nr_maps, 2);
		assert_int_equal(fk_nr_open(&r->k, FK_DEVICE), 2);
		assert_int_equal(fk_nr_open(&r->k, FK_GROUP), iommufd ? 0 : 2);
		assert_int_equal(fk_nr_open(&r->k, iommufd ? FK_IOMMU : FK_CONTAINER), 1);
		vfio_iommu_detach(r->io, &a);
		assert_int_equal(r->k.nr_maps, 2);
		vfio_iommu_detach(r->io, &b);
		assert_int_equal(r->k.nr_maps, 0);
		rig_end(r);
	}
}

static void tells_kvm_before_the_device_is_opened_and_takes_it_back(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a;

		assert_int_equal(attach(r, &card, &a), 0);
		assert_int_equal(fk_nr_kvm(&r->k), 1);
		assert_true(fk_file(&r->k, a.device_fd)->was_kvm);
		vfio_iommu_detach(r->io, &a);
		assert_int_equal(fk_nr_kvm(&r->k), 0);
		rig_end(r);
	}
}

static void opens_a_group_of_two_devices_once(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding a, b;

	assert_int_equal(attach(r, &card, &a), 0);
	assert_int_equal(attach(r, &twin, &b), 0);
	assert_int_equal(fk_nr_open(&r->k, FK_GROUP), 1);
	vfio_iommu_detach(r->io, &a);
	assert_int_equal(fk_nr_open(&r->k, FK_GROUP), 1);
	vfio_iommu_detach(r->io, &b);
	rig_end(r);
}

/* A container that became empty has forgotten its maps. */
static void maps_all_ram_again_when_a_device_comes_after_the_last_has_left(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a;

		for (int round = 0; round < 3; round++) {
			assert_int_equal(attach(r, &card, &a), 0);
			assert_int_equal(r->k.nr_maps, 1);
			vfio_iommu_detach(r->io, &a);
			assert_int_equal(r->k.nr_maps, 0);
			vfio_iommu_detach(r->io, &a); /* a second time: nothing */
		}
		rig_end(r);
	}
}

static void follows_ram_that_comes_and_goes(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct memory_listener *l = &r->io->listener;
		struct vfio_binding a;

		l->add(l, &high);
		assert_int_equal(attach(r, &card, &a), 0);
		l->add(l, &higher);
		assert_true(fk_has_map(&r->k, higher.gpa, higher.size));
		assert_int_equal(vfio_iommu_pinned(r->io), RAM_SIZE + high.size + higher.size);
		l->remove(l, &high);
		assert_false(fk_has_map(&r->k, high.gpa, high.size));
		/* What can not be mapped is not taken for mapped. */
		r->k.fail_request = iommufd ? IOMMU_IOAS_MAP : VFIO_IOMMU_MAP_DMA;
		r->k.fail_rc = -ENOMEM;
		l->add(l, &high);
		assert_int_equal(vfio_iommu_pinned(r->io), RAM_SIZE + higher.size);
		vfio_iommu_detach(r->io, &a);
		rig_end(r);
	}
}

static void maps_large_ranges_in_pieces(void **state)
{
	const struct mem_range large = {
		.gpa = 16 * GIB, .size = 40 * GIB, .fd = -1, .hva = (void *)0x100000000000
	};

	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct memory_listener *l = &r->io->listener;
		struct vfio_binding a;

		l->add(l, &large);
		assert_int_equal(attach(r, &card, &a), 0);
		assert_int_equal(r->k.nr_maps, 4);
		assert_true(fk_has_map(&r->k, 48 * GIB, 8 * GIB));
		l->remove(l, &large);
		assert_int_equal(r->k.nr_maps, 1);
		/* What comes later and fails at its second piece leaves nothing of the first. */
		r->k.fail_request = iommufd ? IOMMU_IOAS_MAP : VFIO_IOMMU_MAP_DMA;
		r->k.fail_after = 5;
		r->k.fail_rc = -ENOMEM;
		l->add(l, &large);
		assert_int_equal(r->k.nr_maps, 1);
		assert_int_equal(vfio_iommu_pinned(r->io), RAM_SIZE);
		vfio_iommu_detach(r->io, &a);
		rig_end(r);
	}
}

static void outlives_its_maker_for_as_long_as_a_device_holds_it(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_iommu *io = vfio_iommu_hold(r->io);
	struct vfio_binding a;

	assert_int_equal(attach(r, &card, &a), 0);
	vfio_iommu_free(io);
	vfio_iommu_detach(io, &a);
	vfio_iommu_drop(io);
	r->io = NULL;
	rig_end(r);
}

/* As few calls as it takes: a change of these numbers is to be meant. */
static void makes_no_more_calls_than_needed(void **state)
{
	/*
	 * Container: its file, version, group's file, status, into the container, IOMMU, KVM's
	 * list, group into the list, ranges, map, device. iommufd: its file, address space,
	 * device's file, KVM's list, device into the list, bind, attach, ranges, map.
	 */
	static const unsigned first[] = { 11, 9 }, second[] = { 6, 5 };

	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a, b;

		assert_int_equal(attach(r, &card, &a), 0);
		assert_int_equal(r->k.nr_calls, first[iommufd]);
		r->k.nr_calls = 0;
		assert_int_equal(attach(r, &disk, &b), 0);
		assert_int_equal(r->k.nr_calls, second[iommufd]);
		r->k.nr_calls = 0;
		vfio_iommu_detach(r->io, &a);
		vfio_iommu_detach(r->io, &b);
		/* Closing takes maps, groups and devices away; KVM alone has to be told. */
		assert_int_equal(r->k.nr_calls, 2);
		rig_end(r);
	}
}

/* --- failing --- */

static void attach_all(struct rig *r, struct vfio_binding b[3], int rc[3])
{
	const struct vfio_iommu_device *devices[] = { &card, &disk, &twin };

	for (int i = 0; i < 3; i++) {
		rc[i] = attach(r, devices[i], &b[i]);
		if (rc[i] && !*r->err.text)
			fail_msg("call %u fails without a text", r->k.fail_nth);
		if (rc[i])
			assert_int_equal(b[i].device_fd, -1);
	}
}

/* Each call of three attaches fails in turn, whatever it is. */
static void any_call_may_fail_and_leaves_nothing(void **state)
{
	static const int errors[] = { -EIO, -ENOMEM, -EBUSY, -ENOENT, -EINVAL };

	for (int iommufd = 0; iommufd < 2; iommufd++)
		for (unsigned e = 0; e < ARRAY_SIZE(errors); e++)
			for (unsigned nth = 1, more = 1; more; nth++) {
				struct rig *r = rig_begin(iommufd);
				struct vfio_binding b[3];
				int rc[3], good = 0;

				r->io->listener.add(&r->io->listener, &high);
				r->io->listener.add(&r->io->listener, &higher);
				r->k.fail_nth = nth;
				r->k.fail_rc = errors[e];
				attach_all(r, b, rc);
				more = r->k.nr_calls >= nth;
				for (int i = 0; i < 3; i++)
					good += !rc[i];
				/*
				 * One failure costs one device at most, and no other one its
				 * memory.
				 */
				assert_in_range(good, 2, 3);
				assert_int_equal(r->k.nr_maps, 3);
				for (int i = 0; i < 3; i++)
					vfio_iommu_detach(r->io, &b[i]);
				assert_int_equal(r->k.nr_maps, 0);
				rig_end(r);
			}
}

static void a_map_that_fails_says_range_and_reason(void **state)
{
	static const struct {
		int rc;
		const char *text;
	} cases[] = {
		{ -ENOMEM, "limit of locked memory" },
		{ -EFAULT, "huge pages" },
		{ -ENOSPC, "dma_entry_limit" },
		{ -EINVAL, "cannot translate" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig *r = rig_begin(i & 1);
		struct vfio_binding a;

		r->io->listener.add(&r->io->listener, &high);
		r->io->listener.add(&r->io->listener, &higher);
		r->k.fail_request = i & 1 ? IOMMU_IOAS_MAP : VFIO_IOMMU_MAP_DMA;
		r->k.fail_after = 1;
		r->k.fail_rc = cases[i].rc;
		assert_int_equal(attach(r, &card, &a), cases[i].rc);
		says(r, "guest RAM at 0x100000000 to 0x1007fffff (8388608 of 33554432 bytes)");
		says(r, cases[i].text);
		rig_end(r);
	}
}

static void too_low_a_limit_of_locked_memory_is_said_before_anything_is_opened(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding a;

	r->k.memlock = RAM_SIZE - 1;
	assert_int_equal(attach(r, &card, &a), -ENOMEM);
	says(r, "16777216 bytes, and the limit is 16777215: raise it (ulimit -l 16384, or LimitMEMLOCK=16777216");
	assert_int_equal(r->k.nr_calls, 0);
	r->k.memlock = RAM_SIZE;
	assert_int_equal(attach(r, &card, &a), 0);
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

static void ram_outside_of_what_the_iommu_translates_is_refused_with_the_hole(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a;

		r->k.ranges[0] = (struct vfio_iova_range){ 0, 0xfedfffff };
		r->k.ranges[1] = (struct vfio_iova_range){ 0xfef00000, 4 * GIB + 0xfffff };
		r->k.ranges[2] = (struct vfio_iova_range){ 4 * GIB + 0x200000, 512 * GIB - 1 };
		r->k.nr_ranges = 3;
		r->io->listener.add(&r->io->listener, &high);
		assert_int_equal(attach(r, &card, &a), -ERANGE);
		says(r, "0x100100000 to 0x1001fffff is reserved");
		r->k.nr_ranges = 2;
		r->k.ranges[1].end = 512 * GIB - 1;
		assert_int_equal(attach(r, &card, &a), 0);
		vfio_iommu_detach(r->io, &a);
		rig_end(r);
	}
}

static void a_list_of_capabilities_that_runs_in_circles_is_as_none(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding a;

	r->k.nr_ranges = 1;
	r->k.ranges[0] = (struct vfio_iova_range){ 0, UINT64_MAX };
	r->k.iova_caps_loop = true;
	assert_int_equal(attach(r, &card, &a), 0);
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

static void groups_that_cannot_be_used_are_named(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_iommu_device none = card;
	struct vfio_binding a;

	r->k.not_viable = true;
	assert_int_equal(attach(r, &card, &a), -EPERM);
	says(r, "group 11 is not viable");
	r->k.not_viable = false;
	r->k.container_set = true;
	assert_int_equal(attach(r, &card, &a), -EBUSY);
	says(r, "group 11 is in a container already");
	r->k.container_set = false;
	r->k.no_msi_remapping = true;
	assert_int_equal(attach(r, &card, &a), -EPERM);
	says(r, "allow_unsafe_interrupts");
	r->k.no_msi_remapping = false;
	none.group = -1;
	assert_int_equal(attach(r, &none, &a), -ENODEV);
	says(r, "has no IOMMU group");
	none.group = 11;
	none.name = "0000:01:00.7";
	assert_int_equal(attach(r, &none, &a), -ENODEV);
	says(r, "is it bound to vfio-pci?");
	rig_end(r);
}

static void a_vf_token_is_passed_on_and_its_lack_is_said(void **state)
{
	static const char token[] = "c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c";

	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_iommu_device vf = card;
		struct vfio_binding a;

		vf.vf_token = token;
		assert_int_equal(attach(r, &vf, &a), -EINVAL);
		says(r, iommufd ? "it needs no vf_token" : "vf_token is given, but it needs none");
		r->k.vf_token = token;
		assert_int_equal(attach(r, &card, &a), -EACCES);
		says(r, "vf_token=UUID");
		assert_int_equal(attach(r, &vf, &a), 0);
		vfio_iommu_detach(r->io, &a);
		vf.vf_token = "00000000-50fd-4a0b-9e43-d2d3e5be7e6c";
		assert_int_equal(attach(r, &vf, &a), -EACCES);
		says(r, "vf_token is not the one");
		rig_end(r);
	}
}

static void files_that_cannot_be_opened_are_named_with_the_cure(void **state)
{
	static const struct {
		int rc;
		const char *text;
	} cases[] = {
		{ -EACCES, "no permission to read and write it" },
		{ -EBUSY, "is in use by another program" },
		{ -ENODEV, "modprobe vfio-pci" },
		{ -EMFILE, "Too many open files" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned after = 0; after < 2; after++) {
			struct rig *r = rig_begin(false);
			struct vfio_binding a;

			r->k.fail_request = FK_OPEN;
			r->k.fail_after = after;
			r->k.fail_rc = cases[i].rc;
			assert_int_equal(attach(r, &card, &a), cases[i].rc);
			says(r, after ? "/dev/vfio/11" : "/dev/vfio/vfio");
			says(r, cases[i].text);
			rig_end(r);
		}
}

static void an_attach_that_is_called_off_ends_between_two_maps(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding a;

	atomic_store(&r->cancel, true);
	assert_int_equal(attach(r, &card, &a), -ECANCELED);
	assert_int_equal(r->k.nr_calls, 0);
	rig_end(r);
}

static void cancel_at_map(struct fake_kernel *k, unsigned long request)
{
	if (request == VFIO_IOMMU_MAP_DMA)
		atomic_store((atomic_bool *)k->arg, true);
}

static void an_attach_called_off_while_it_pins_maps_no_more(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding a;

	r->io->listener.add(&r->io->listener, &high);
	r->k.before = cancel_at_map;
	r->k.arg = &r->cancel;
	assert_int_equal(attach(r, &card, &a), -ECANCELED);
	assert_int_equal(fk_nr_calls(&r->k, VFIO_IOMMU_MAP_DMA), 1);
	rig_end(r);
}

/* --- which way --- */

static void without_iommufd_the_container_is_taken(void **state)
{
	struct rig *r = rig_begin(true);
	struct vfio_iommu_device old = card;
	struct vfio_binding a;

	r->k.no_cdev = true;
	assert_int_equal(attach(r, &card, &a), 0);
	assert_int_equal(fk_nr_open(&r->k, FK_CONTAINER), 1);
	vfio_iommu_detach(r->io, &a);
	r->k.no_cdev = false;
	old.cdev = NULL;
	assert_int_equal(attach(r, &old, &a), 0);
	assert_int_equal(fk_nr_open(&r->k, FK_CONTAINER), 1);
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

static void all_devices_of_a_machine_go_the_same_way(void **state)
{
	struct rig *r = rig_begin(true);
	struct vfio_iommu_device old = disk;
	struct vfio_binding a, b;

	old.cdev = NULL;
	assert_int_equal(attach(r, &card, &a), 0);
	assert_int_equal(attach(r, &old, &b), -ENODEV);
	says(r, "other devices are attached by iommufd");
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

static void descriptors_of_the_caller_are_used_and_stay_open(void **state)
{
	struct rig *r = rig_new();
	struct vfio_iommu_params p = params(r);
	struct vfio_iommu_device given = { .name = "descriptor 9", .group = -1 };
	struct vfio_binding a;
	int iommu = fk_new_file(&r->k, FK_IOMMU)->fd;

	given.fd = fk_device_file(&r->k, 0);
	p.iommufd = true;
	p.iommufd_fd = iommu;
	begin(r, &p);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(attach(r, &given, &a), 0);
		assert_int_equal(a.was_bound, round > 0);
		assert_int_equal(a.device_fd, given.fd);
		assert_int_equal(r->k.nr_maps, 1);
		vfio_iommu_detach(r->io, &a);
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(fk_nr_kvm(&r->k), 0);
	}
	assert_int_equal(fk_nr_calls(&r->k, FK_OPEN), 0);
	/* Without one of /dev/iommu there is no other way. */
	r->io->given_iommufd = -1;
	r->k.no_cdev = true;
	assert_int_equal(attach(r, &given, &a), -ENOENT);
	says(r, "/dev/iommu is missing: is the module iommufd loaded");
	fk_close(&r->k.sys, given.fd);
	fk_close(&r->k.sys, iommu);
	rig_end(r);
}

static void a_descriptor_without_iommufd_is_refused(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_iommu_device given = { .name = "descriptor 9", .group = -1, .fd = 9 };
	struct vfio_binding a, b;

	assert_int_equal(attach(r, &given, &a), -EINVAL);
	says(r, "iommufd=on");
	assert_int_equal(attach(r, &card, &a), 0);
	assert_int_equal(attach(r, &given, &b), -EINVAL);
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

static void a_device_without_an_iommu_wants_a_word_of_the_user(void **state)
{
	for (int allowed = 0; allowed < 2; allowed++) {
		struct rig *r = rig_new();
		struct vfio_iommu_params p = params(r);
		struct vfio_binding a;
		int rc;

		p.unsafe_noiommu = allowed;
		r->k.noiommu = true;
		r->k.memlock = 0;
		begin(r, &p);
		r->k.memlock = UINT64_MAX;
		rc = attach(r, &card, &a);
		assert_int_equal(rc, allowed ? 0 : -EPERM);
		if (rc)
			says(r, "vfio_unsafe_noiommu=on");
		assert_int_equal(r->k.nr_maps, 0);
		vfio_iommu_detach(r->io, &a);
		rig_end(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_all_ram_for_the_first_device_and_none_for_the_second),
		cmocka_unit_test(tells_kvm_before_the_device_is_opened_and_takes_it_back),
		cmocka_unit_test(opens_a_group_of_two_devices_once),
		cmocka_unit_test(maps_all_ram_again_when_a_device_comes_after_the_last_has_left),
		cmocka_unit_test(follows_ram_that_comes_and_goes),
		cmocka_unit_test(maps_large_ranges_in_pieces),
		cmocka_unit_test(outlives_its_maker_for_as_long_as_a_device_holds_it),
		cmocka_unit_test(makes_no_more_calls_than_needed),
		cmocka_unit_test(any_call_may_fail_and_leaves_nothing),
		cmocka_unit_test(a_map_that_fails_says_range_and_reason),
		cmocka_unit_test(
			too_low_a_limit_of_locked_memory_is_said_before_anything_is_opened),
		cmocka_unit_test(ram_outside_of_what_the_iommu_translates_is_refused_with_the_hole),
		cmocka_unit_test(a_list_of_capabilities_that_runs_in_circles_is_as_none),
		cmocka_unit_test(groups_that_cannot_be_used_are_named),
		cmocka_unit_test(a_vf_token_is_passed_on_and_its_lack_is_said),
		cmocka_unit_test(files_that_cannot_be_opened_are_named_with_the_cure),
		cmocka_unit_test(an_attach_that_is_called_off_ends_between_two_maps),
		cmocka_unit_test(an_attach_called_off_while_it_pins_maps_no_more),
		cmocka_unit_test(without_iommufd_the_container_is_taken),
		cmocka_unit_test(all_devices_of_a_machine_go_the_same_way),
		cmocka_unit_test(descriptors_of_the_caller_are_used_and_stay_open),
		cmocka_unit_test(a_descriptor_without_iommufd_is_refused),
		cmocka_unit_test(a_device_without_an_iommu_wants_a_word_of_the_user),
	};

	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
