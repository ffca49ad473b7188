/*
 * fuzz_intremap.c - what a guest says to its interrupt remapping unit, under libFuzzer
 *
 * The input is a list of steps: a register is written or read, memory is written (entries, descriptors), a device
 * sends a message. Words are as they are, or small ones, so that table and queue are met.
 * What must hold: no crash; a write of a doubleword makes the messages looked up at most once; what goes out is
 * something KVM takes; what is let through has an entry that is there and that the sender may use.
 *
 * RAM is some pages of this program's own: they stand in for memory.c.
 */
#include <errno.h>

#include "fuzz.h"
#include "machine/intremap_priv.h"

#define PAGE	 4096u
#define RAM_SIZE (8 * PAGE)

struct memory {
	uint8_t *ram;
};

/* memory.c is not linked, as all of it that is used is here. */
void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	return range_ok(gpa, len, RAM_SIZE) ? m->ram + gpa : NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	const void *from = memory_ptr(m, gpa, len);

	if (!from)
		return -EFAULT;
	memcpy(buf, from, len);
	return 0;
}

struct world {
	struct memory memory;
	struct intremap *ir;
	unsigned changed, sent;
};

/* 32-bit destinations are in the upper half's upper bytes. */
static void check_message(const struct msi_message *msg)
{
	require((msg->addr & 0xfffff00000ull) == 0xfee00000);
}

static void on_changed(void *arg)
{
	((struct world *)arg)->changed++;
}

static void on_send(void *arg, const struct msi_message *msg)
{
	((struct world *)arg)->sent++;
	check_message(msg);
}

/* As entries say, said in another way: this one is its owner's, or anybody's. */
static void check_entry(const struct world *w, uint32_t index, uint16_t sid)
{
	struct ir_unit *u = &w->ir->units[0];
	uint64_t e[2];

	require(index < u->nr_entries);
	require(!memory_read(&w->memory, u->table + index * 16, e, sizeof(e)));
	require(e[0] & 1);
	require((e[1] >> 18 & 3) != 3);
	if ((e[1] >> 18 & 3) == 1)
		require(((e[1] ^ sid) & 0xfff8) == 0);
}

static void one_message(struct world *w, struct input *in)
{
	uint32_t source = take8(in) & 1 ? take32(in) : take16(in);
	struct msi_message out = { 0 }, msg = { .addr = 0xfee00000 | take16(in) };
	uint32_t index;

	msg.data = take8(in);
	if (take8(in) == 255)
		msg.addr = take64(in);
	if (take8(in) == 255)
		msg.data = take32(in);
	if (!intremap_resolve(w->ir, source, &msg, &out, take8(in) & 1))
		return;
	require(source < 1u << 16);
	check_message(&out);
	if (!(intremap_read(w->ir, 0, R_GSTS, 4) & G_IRE) || !(msg.addr & 1 << 4))
		return;
	index = (msg.addr >> 5 & 0x7fff) | (msg.addr >> 2 & 1) << 15;
	index += msg.addr & 1 << 3 ? msg.data : 0;
	check_entry(w, index, (uint16_t)source);
}

static uint64_t take_word(struct input *in)
{
	switch (take8(in) % 4) {
	case 0:
		return take64(in);
	case 1:
		return take16(in);
	case 2:
		return (uint64_t)take8(in) % 8 * PAGE | take8(in) % 16 | (take8(in) & 1) << 11;
	default:
		return (uint64_t)take8(in) << 23;
	}
}

static void one_write(struct world *w, struct input *in)
{
	static const uint16_t registers[] = { R_GCMD, R_FSTS, R_FECTL, R_FEDATA, R_FEADDR, R_IQT,
		R_IQA, R_ICS, R_IECTL, R_IRTA, R_FRCD + 12, R_FRCD + 28 };
	unsigned which = take8(in);
	uint64_t off = which < 240 ? registers[which % ARRAY_SIZE(registers)] : take16(in);
	unsigned size = which & 1 ? 8 : 1u << take8(in) % 4;

	w->changed = 0;
	intremap_write(w->ir, 0, off, size, take_word(in));
	require(w->changed <= 2u * (size / 4));
}

static void write_memory(struct world *w, struct input *in)
{
	uint64_t at = (uint64_t)take16(in) * 8 % RAM_SIZE;
	size_t len = take8(in) % 33;
	const uint8_t *bytes = take_bytes(in, &len);

	memcpy(w->memory.ram + at, bytes, MIN(len, RAM_SIZE - at));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct intremap_ops ops = { .changed = on_changed, .send = on_send };
	struct world w = { .memory.ram = calloc(1, RAM_SIZE) };
	const struct intremap_params p = {
		.ops = &ops, .arg = &w, .memory = &w.memory, .nr_segments = 1, .phys_bits = 46
	};
	struct input in = { data, size };

	require(w.memory.ram && !intremap_new(&p, &w.ir));
	while (in.left)
		switch (take8(&in) % 8) {
		case 0:
			intremap_read(w.ir, 0, take16(&in), 1u << take8(&in) % 4);
			break;
		case 1:
			intremap_reset(w.ir);
			break;
		case 2:
		case 3:
			one_message(&w, &in);
			break;
		case 4:
		case 5:
			write_memory(&w, &in);
			break;
		default:
			one_write(&w, &in);
		}
	intremap_free(w.ir);
	free(w.memory.ram);
	return 0;
}
