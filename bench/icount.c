/*
 * icount.c - a plugin for QEMU's emulator (TCG) that counts instructions between markers
 *
 * Times measured in an emulator say little; instructions executed are the same on every machine and
 * in every run to a few in a thousand. Each time one of marker.h's instructions runs, one line goes
 * to stderr:
 *
 *   icount: mark 2 user 391825 kernel 18895012
 *
 * the instructions since the marker before, in the lower half of the address space (user space, and
 * guests of the emulated machine) and in the upper half. To be used with one CPU, so that nothing
 * runs beside.
 *
 * With the argument entry=on the first VMRUN after each MARK_BEGIN counts as mark 4: there the
 * emulated machine's VMM is done and its guest begins, or goes on. What comes after is still
 * counted from the marker before.
 *
 * Debian's QEMU exports this interface but ships no header of it, so what is needed is declared
 * here. Version 7 of the interface is QEMU 11's.
 *
 * Spec: QEMU, "QEMU TCG Plugins", API documentation.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "marker.h"

#define VISIBLE __attribute__((visibility("default")))

/* --- the interface --- */

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;

struct qemu_plugin_u64 {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
};

enum { OP_INLINE_ADD_U64 = 0 };
enum { CALLBACK_NO_REGS = 0 };

typedef void (*translated_fn)(struct qemu_plugin_tb *tb, void *arg);
typedef void (*executed_fn)(unsigned int vcpu, void *arg);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_fn fn, void *arg);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(
	struct qemu_plugin_insn *insn, executed_fn fn, int flags, void *arg);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
	struct qemu_plugin_insn *insn, int op, struct qemu_plugin_u64 entry, uint64_t value);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
uint64_t qemu_plugin_u64_sum(struct qemu_plugin_u64 entry);

VISIBLE extern const int qemu_plugin_version;
VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

const int qemu_plugin_version = 7;

/* --- counting --- */

enum half { USER, KERNEL, HALVES };

static struct qemu_plugin_u64 counter[HALVES];
static uint64_t at_last_mark[HALVES];
static bool count_entries; /* the argument entry=on */
static bool entry_awaited; /* a marker MARK_BEGIN was the last */

static uint64_t since_last_mark(enum half half)
{
	uint64_t now = qemu_plugin_u64_sum(counter[half]), since = now - at_last_mark[half];

	at_last_mark[half] = now;
	return since;
}

static void say_mark(unsigned number, unsigned long long user, unsigned long long kernel)
{
	fprintf(stderr, "icount: mark %u user %llu kernel %llu\n", number, user, kernel);
}

static void mark_executed(unsigned int vcpu, void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;
	uint64_t user = since_last_mark(USER), kernel = since_last_mark(KERNEL);

	say_mark(number, user, kernel);
	entry_awaited = number == MARK_BEGIN;
}

static void guest_entered(unsigned int vcpu, void *arg)
{
	if (!entry_awaited)
		return;
	entry_awaited = false;
	say_mark(MARK_ENTRY, qemu_plugin_u64_sum(counter[USER]) - at_last_mark[USER],
		qemu_plugin_u64_sum(counter[KERNEL]) - at_last_mark[KERNEL]);
}

static bool is_vmrun(const struct qemu_plugin_insn *insn)
{
	static const uint8_t vmrun[] = { 0x0f, 0x01, 0xd8 };
	uint8_t bytes[sizeof(vmrun)];

	return qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(bytes) &&
	       !memcmp(bytes, vmrun, sizeof(vmrun));
}

/* The marker's number, or 0: this is another instruction. */
static unsigned marker_number(const struct qemu_plugin_insn *insn)
{
	static const uint8_t marker[] = { MARKER_BYTES };
	uint8_t bytes[sizeof(marker) + 1];

	if (qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) != sizeof(bytes) ||
		memcmp(bytes, marker, sizeof(marker)))
		return 0;
	return bytes[sizeof(marker)];
}

static void block_translated(struct qemu_plugin_tb *tb, void *arg)
{
	size_t nr = qemu_plugin_tb_n_insns(tb);

	for (size_t i = 0; i < nr; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		enum half half = qemu_plugin_insn_vaddr(insn) >> 63 ? KERNEL : USER;
		unsigned number = marker_number(insn);

		if (number)
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, mark_executed, CALLBACK_NO_REGS, (void *)(uintptr_t)number);
		if (count_entries && half == KERNEL && is_vmrun(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, guest_entered, CALLBACK_NO_REGS, NULL);
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
			insn, OP_INLINE_ADD_U64, counter[half], 1);
	}
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		count_entries |= !strcmp(argv[i], "entry=on");
	for (int half = 0; half < HALVES; half++)
		counter[half].score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated, NULL);
	return 0;
}
