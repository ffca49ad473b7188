/* vu_chan_test.c - bytes and descriptors become messages */
#include "vfio_fake.h"

#include "attach/vfio_user_chan.h"

static void put_message(uint8_t *buf, uint16_t id)
{
	const struct vfio_user_header h = {
		.id = id, .command = VFIO_USER_DEVICE_GET_REGION_INFO, .size = 48, .flags = 1
	};

	memset(buf, 0, 48);
	memcpy(buf, &h, sizeof(h));
}

static int chan_message(struct vu_chan *ch, struct vu_msg *m)
{
	struct err err = { 0 };
	int rc;

	while (!(rc = vu_chan_next(ch, m, &err)))
		if (vu_chan_recv(ch) <= 0)
			return 0;
	return rc;
}

static void descriptors_stay_with_their_message(void **state)
{
	uint8_t a[48], b[48], c[48];
	struct vu_chan ch;
	struct vu_msg m;
	int pair[2], fds = fd_count();

	put_message(a, 1);
	put_message(b, 2);
	put_message(c, 3);
	assert_int_equal(sock_pair(pair), 0);
	vu_chan_init(&ch, pair[0], &vfio_user_framing);
	/* The second begins before all of the first was read, and a third without any follows. */
	send_all(pair[1], a, 20, (int[]){ pair[1] }, 1);
	assert_int_equal(chan_message(&ch, &m), 0);
	send_all(pair[1], a + 20, 28, NULL, 0);
	send_all(pair[1], b, 48, (int[]){ pair[1], pair[1] }, 2);
	send_all(pair[1], c, 48, NULL, 0);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 1);
	assert_int_equal(m.fds->nr, 1);
	vu_chan_done(&ch);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 2);
	assert_int_equal(m.fds->nr, 2);
	vu_chan_done(&ch);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 3);
	assert_null(m.fds);
	vu_chan_done(&ch);
	vu_chan_fini(&ch);
	close(pair[1]);
	assert_int_equal(fd_count(), fds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors_stay_with_their_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
