/* block_test.c - the virtio disk: what its configuration says, and the cache mode */
#include "block_fixture.h"

#include "device/block_priv.h"

#define FLUSH_BIT VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)

static void an_image_that_grows_is_a_larger_disk(void **state)
{
	open_disk(FILE_URING);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 0);
	assert_int_equal(truncate(f.path, 2 * DISK_BYTES), 0);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 1);
	assert_int_equal(disk_capacity(&f.d), 2 * DISK_SECTORS);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_IN, 2 * DISK_SECTORS - 1, NULL, 0, NULL, 512, CUT_USUAL),
		OK);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 1);
	close_disk();
}

/* Cache mode */

static uint8_t wce(void)
{
	return ((struct virtio_blk_config *)f.d.model->config)->wce;
}

static void set_wce(uint8_t value)
{
	f.d.model->ops->config_write(f.d.model, offsetof(struct virtio_blk_config, wce), &value, 1);
}

static bool is_write_through(void)
{
	return atomic_load(&container_of(f.d.model, struct block_disk, model)->write_through);
}

static void the_cache_mode_follows_features_and_configuration(void **state)
{
	const uint64_t both = FLUSH_BIT | VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE);
	uint8_t four[4] = { 0 };

	open_disk(RAM);
	assert_false(is_write_through());
	set_wce(0);
	assert_true(is_write_through());
	assert_int_equal(wce(), 0);
	set_wce(2);
	assert_false(is_write_through());
	assert_int_equal(wce(), 1);
	/* A write that covers other bytes as well changes just this one. */
	f.d.model->ops->config_write(
		f.d.model, offsetof(struct virtio_blk_config, wce) - 1, four, 4);
	assert_true(is_write_through());
	assert_int_equal(disk_capacity(&f.d), DISK_SECTORS);
	f.d.model->ops->config_write(f.d.model, 0, four, 4);
	assert_int_equal(disk_capacity(&f.d), DISK_SECTORS);
	disk_stop(&f.d);
	f.d.model->ops->reset(f.d.model);
	assert_int_equal(wce(), 1);
	f.d.model->ops->set_features(f.d.model, both & ~FLUSH_BIT);
	assert_int_equal(wce(), 0);
	assert_true(is_write_through());
	f.d.model->ops->reset(f.d.model);
	f.d.model->ops->set_features(f.d.model, 0);
	assert_true(is_write_through());
	f.d.model->ops->set_features(f.d.model, FLUSH_BIT);
	assert_false(is_write_through());
	disk_close(&f.d);
	f.config.write_through = true;
	open_disk(RAM);
	assert_int_equal(wce(), 0);
	assert_true(is_write_through());
	close_disk();
}

/* Its end */

static void a_model_that_never_ran_can_be_freed(void **state)
{
	struct virtio_model *model;

	assert_int_equal(block_new(&model, f.d.loop, make_store(FILE_URING), &f.config, NULL), 0);
	virtio_model_free(model);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(an_image_that_grows_is_a_larger_disk),
		T(the_cache_mode_follows_features_and_configuration),
		T(a_model_that_never_ran_can_be_freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
