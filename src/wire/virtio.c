/*
 * virtio.c - the types of virtio devices, one row each
 *
 * What a generic front-end has to know about a type: how it is called, how many queues its drivers
 * bear, and which class of PCI function it looks like. A count that the specification leaves
 * open, or that nobody has written down, is 0 and not checked.
 *
 * Spec: virtio 1.3, chapter 5; drafts for the types after 41.
 */
#include "wire/virtio.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

/* Queue counts: FIXED(n); MORE(n, step) more by whole steps; OPT(n) one more that is optional */
#define FIXED(n)      .min_queues = (n), .default_queues = (n)
#define MORE(n, by)   .min_queues = (n), .default_queues = (n), .step = (by)
#define OPT(n)	      .min_queues = (n), .default_queues = (n), .extra = true
#define UNKNOWN	      .min_queues = 0, .default_queues = 1
#define CLASS(c, sub) .class_code = (c), .subclass = (sub)
#define NO_CLASS      CLASS(0xff, 0x00)

/* clang-format off */
static const struct virtio_type types[] = {
	{  1, "net", NULL, MORE(2, 2), .extra = true, CLASS(0x02, 0x00) }, /* and a control queue */
	{  2, "block", "blk", MORE(1, 1), CLASS(0x01, 0x00) },
	{  3, "console", NULL, MORE(2, 2), CLASS(0x07, 0x80) },
	{  4, "rng", "entropy", FIXED(1), NO_CLASS },
	{  5, "balloon", NULL, MORE(2, 1), NO_CLASS,
	  .refused = "it gives guest memory back to the host, which only the VMM can do" },
	{  6, "iomem", NULL, UNKNOWN, NO_CLASS },
	{  7, "rpmsg", NULL, UNKNOWN, NO_CLASS },
	{  8, "scsi", NULL, MORE(3, 1), CLASS(0x01, 0x00) },
	{  9, "9p", NULL, FIXED(1), CLASS(0x01, 0x80) },
	{ 10, "mac80211-wlan", NULL, UNKNOWN, CLASS(0x02, 0x80) },
	{ 11, "rproc-serial", NULL, UNKNOWN, CLASS(0x07, 0x80) },
	{ 12, "caif", NULL, UNKNOWN, CLASS(0x02, 0x80) },
	{ 13, "memory-balloon", NULL, UNKNOWN, NO_CLASS,
	  .refused = "it gives guest memory back to the host, which only the VMM can do" },
	{ 16, "gpu", NULL, FIXED(2), CLASS(0x03, 0x80) },
	{ 17, "clock", "rtc", OPT(1), NO_CLASS },
	{ 18, "input", NULL, FIXED(2), CLASS(0x09, 0x80) },
	{ 19, "vsock", "socket", FIXED(3), CLASS(0x02, 0x80) },
	{ 20, "crypto", NULL, MORE(2, 1), CLASS(0x10, 0x00) },
	{ 21, "signal-dist", NULL, UNKNOWN, NO_CLASS },
	{ 22, "pstore", NULL, UNKNOWN, NO_CLASS },
	{ 23, "iommu", NULL, FIXED(2), NO_CLASS,
	  .refused = "it translates the addresses of the other devices, which the VMM must do" },
	{ 24, "mem", NULL, FIXED(1), NO_CLASS,
	  .refused = "it plugs guest memory, which only the VMM can do" },
	{ 25, "sound", "snd", FIXED(4), CLASS(0x04, 0x01) },
	{ 26, "fs", NULL, MORE(2, 1), CLASS(0x01, 0x80) },
	{ 27, "pmem", NULL, FIXED(1), NO_CLASS },
	{ 28, "rpmb", NULL, FIXED(1), NO_CLASS },
	{ 29, "mac80211-hwsim", NULL, FIXED(2), CLASS(0x02, 0x80) },
	{ 30, "video-encoder", NULL, FIXED(2), CLASS(0x04, 0x80) },
	{ 31, "video-decoder", NULL, FIXED(2), CLASS(0x04, 0x80) },
	{ 32, "scmi", NULL, OPT(1), NO_CLASS },
	{ 33, "nitro-sec-mod", NULL, UNKNOWN, NO_CLASS },
	{ 34, "i2c", NULL, FIXED(1), NO_CLASS },
	{ 35, "watchdog", NULL, UNKNOWN, NO_CLASS,
	  .refused = "it resets the machine, which only the VMM can do" },
	{ 36, "can", NULL, FIXED(3), CLASS(0x02, 0x80) },
	{ 37, "dmabuf", NULL, UNKNOWN, NO_CLASS },
	{ 38, "param-serv", NULL, UNKNOWN, NO_CLASS },
	{ 39, "audio-policy", NULL, UNKNOWN, NO_CLASS },
	{ 40, "bt", "bluetooth", FIXED(2), NO_CLASS },
	{ 41, "gpio", NULL, OPT(1), NO_CLASS },
	{ 42, "rdma", NULL, UNKNOWN, CLASS(0x02, 0x80) },
	{ 43, "camera", NULL, UNKNOWN, CLASS(0x04, 0x80) },
	{ 44, "ism", NULL, UNKNOWN, NO_CLASS },
	{ 45, "spi", NULL, FIXED(1), NO_CLASS },
	{ 48, "media", NULL, FIXED(2), CLASS(0x04, 0x80) },
};
/* clang-format on */

const struct virtio_type *virtio_type_find(uint32_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].id == id)
			return &types[i];
	return NULL;
}

const struct virtio_type *virtio_type_named(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(types[i].name, name) ||
			(types[i].alias && !strcmp(types[i].alias, name)))
			return &types[i];
	return NULL;
}

const char *virtio_type_name(uint32_t id, char buf[16])
{
	const struct virtio_type *t = virtio_type_find(id);

	if (t)
		return t->name;
	snprintf(buf, 16, "type%" PRIu32, id);
	return buf;
}

/* Decimal digits and nothing else, so that " 2", "+2" and "2x" are no ids. */
static bool parse_number(const char *text, uint32_t *value)
{
	uint32_t v = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || v > VIRTIO_TYPE_MAX)
			return false;
		v = v * 10 + (uint32_t)(*text - '0');
	}
	*value = v;
	return true;
}

int virtio_type_parse(const char *text, uint32_t *id, struct err *err)
{
	const struct virtio_type *t = virtio_type_named(text);
	uint32_t v;

	if (t) {
		*id = t->id;
		return 0;
	}
	if (!parse_number(text, &v) || v < 1 || v > VIRTIO_TYPE_MAX)
		return err_set(err, -EINVAL,
			"'%.40s' is no virtio device type: expected a number from 1 to %u, or a name "
			"such as net, block, console, scsi, vsock or fs",
			text, VIRTIO_TYPE_MAX);
	*id = v;
	return 0;
}

static bool legal_queues(const struct virtio_type *t, unsigned nr)
{
	unsigned more;

	if (!t->min_queues)
		return true;
	if (nr < t->min_queues)
		return false;
	more = nr - t->min_queues;
	if (!more || (t->step && more % t->step == 0))
		return true;
	return t->extra && (more == 1 || (t->step && (more - 1) % t->step == 0));
}

int virtio_type_check_queues(uint32_t id, unsigned nr, struct err *err)
{
	const struct virtio_type *t = virtio_type_find(id);
	char legal[48];

	if (!nr || nr > VIRTIO_MAX_QUEUES)
		return err_set(err, -EINVAL, "%u queues: expected 1 to %d", nr, VIRTIO_MAX_QUEUES);
	if (!t || legal_queues(t, nr))
		return 0;
	if (t->step && (t->step == 1 || t->extra))
		snprintf(legal, sizeof(legal), "%u or more", t->min_queues);
	else if (t->step)
		snprintf(legal, sizeof(legal), "%u and any multiple of %u more", t->min_queues,
			t->step);
	else if (t->extra)
		snprintf(legal, sizeof(legal), "%u or %u", t->min_queues, t->min_queues + 1);
	else
		snprintf(legal, sizeof(legal), "%u", t->min_queues);
	return err_set(err, -EINVAL, "a %s device with %u queue%s: expected %s", t->name, nr,
		nr == 1 ? "" : "s", legal);
}
