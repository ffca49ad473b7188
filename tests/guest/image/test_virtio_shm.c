/*
 * test_virtio_shm.c - shared memory of a virtio device in another process (device/shm.h)
 *
 * A region fills with pieces of the device's file and empties again, follows its BAR, and survives
 * a file that loses its end.
 */
#include "../device/shm.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define CAP_SHM 8
#define PIECE	0x4000

static struct virtio dev;
static struct bar bar;
static uint64_t region;

static uint32_t config(unsigned at)
{
	return read32(dev.config + at);
}

/* Have a command carried out: its result. */
static uint32_t command(uint32_t what, uint32_t offset, uint32_t size, uint32_t fd_offset)
{
	uint32_t done = config(SHM_DONE);

	write32(dev.config + SHM_OFFSET, offset);
	write32(dev.config + SHM_SIZE, size);
	write32(dev.config + SHM_FD_OFFSET, fd_offset);
	write32(dev.config + SHM_COMMAND, what);
	while (config(SHM_DONE) == done)
		cpu_relax();
	return config(SHM_RESULT);
}

static bool find_region(void)
{
	unsigned cap;

	if (!ok(virtio_find(&dev, SHM_TYPE, 0), "there is a device"))
		return false;
	equal(config(SHM_ID_AT), SHM_ID, "its configuration can be read");
	cap = virtio_capability(dev.fn, CAP_SHM, 0);
	if (!ok(cap != 0, "it has a shared-memory region"))
		return false;
	equal(virtio_capability(dev.fn, CAP_SHM, 1), 0, "one");
	equal(read8(dev.fn + cap + 5), SHM_REGION, "its number");
	equal(read32(dev.fn + cap + 12) | (uint64_t)read32(dev.fn + cap + 20) << 32,
		SHM_REGION_SIZE, "its size");
	bar = pci_bar(dev.fn, read8(dev.fn + cap + 4));
	ok(bar.wide && bar.prefetch, "it lies in a prefetchable BAR of 64 bits");
	region = bar.addr + read32(dev.fn + cap + 8) + ((uint64_t)read32(dev.fn + cap + 16) << 32);
	return ok(region + SHM_REGION_SIZE <= bar.addr + bar.size, "inside of it");
}

static void check_piece(void)
{
	bool same = true;

	equal(read64(region + PIECE), ~0ull, "nothing is laid: all ones");
	write32(region + PIECE, 1);
	equal(command(SHM_MAP, PIECE, 2 * PIECE, 0), 0, "a piece is laid");
	equal(read32(region + PIECE), 0, "and can be read");
	for (unsigned i = 0; i < 2 * PIECE; i += 64)
		write32(region + PIECE + i, ~i);
	for (unsigned i = 0; i < 2 * PIECE; i += 64)
		same = same && read32(region + PIECE + i) == ~i;
	ok(same, "and written");
	equal(command(SHM_READ, 0, 0, 0x1040), ~0x1040u, "the device sees it");
	equal(read32(region + PIECE - 4), UINT32_MAX, "before it nothing is");
	equal(read32(region + 3 * PIECE), UINT32_MAX, "nor after it");
	ok(command(SHM_MAP, 2 * PIECE, PIECE, 0) != 0, "no piece over another");
	ok(command(SHM_MAP, SHM_REGION_SIZE, PIECE, 0) != 0, "nor outside of the region");
}

static void check_read_only(void)
{
	equal(command(SHM_MAP_RO, 8 * PIECE, PIECE, 0), 0, "a piece that is read-only");
	equal(read32(region + 8 * PIECE + 64), ~64u, "can be read");
	write32(region + 8 * PIECE + 64, 5);
	equal(read32(region + 8 * PIECE + 64), ~64u, "and is not written");
}

static void check_moves(void)
{
	uint64_t home = bar.addr, away = home + bar.size, off = region - home;

	sys_map(away, bar.size);
	pci_bar_move(dev.fn, 2, &bar, away);
	equal(read32(away + off + PIECE + 64), ~64u, "the BAR elsewhere: it is there");
	equal(read32(region + PIECE + 64), UINT32_MAX, "and not where it was");
	pci_bar_move(dev.fn, 2, &bar, home);
	equal(read32(region + PIECE + 64), ~64u, "and back home");
	pci_command(dev.fn, 0, PCI_COMMAND_MEM);
	equal(read32(region + PIECE + 64), UINT32_MAX, "decode off: all ones");
	pci_command(dev.fn, PCI_COMMAND_MEM, 0);
	equal(read32(region + PIECE + 64), ~64u, "decode on: as before");
}

static void check_taking_out(void)
{
	equal(command(SHM_UNMAP, PIECE, 2 * PIECE, 0), 0, "the piece is taken out");
	equal(read32(region + PIECE + 64), UINT32_MAX, "all ones again");
	ok(command(SHM_UNMAP, PIECE, 2 * PIECE, 0) != 0, "it cannot be taken out twice");
	equal(read32(region + 8 * PIECE + 64), ~64u, "the other one stays");
}

/* 20 pieces come and go: slots and mappings are used again. */
static void check_many(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 20; i++) {
		uint32_t at = 0x100000 + i * 0x10000;

		wrong += command(SHM_MAP, at, SHM_FILE_SIZE, 0) != 0;
		wrong += read32(region + at + 64) != ~64u;
	}
	for (unsigned i = 0; i < 20; i += 2)
		wrong += command(SHM_UNMAP, 0x100000 + i * 0x10000, SHM_FILE_SIZE, 0) != 0;
	for (unsigned i = 0; i < 20; i++)
		wrong +=
			read32(region + 0x100000 + i * 0x10000 + 64) != (i % 2 ? ~64u : UINT32_MAX);
	equal(command(SHM_UNMAP, 0x100000, 20 * 0x10000, 0), 0, "several are taken out at once");
	for (unsigned i = 0; i < 20; i++)
		wrong += read32(region + 0x100000 + i * 0x10000 + 64) != UINT32_MAX;
	equal(wrong, 0, "20 pieces come and go");
}

static void check_cut(void)
{
	equal(command(SHM_MAP, 16 * PIECE, SHM_FILE_SIZE, 0), 0, "a piece with all of the file");
	equal(read32(region + 16 * PIECE + 64), ~64u, "can be read");
	command(SHM_TRUNCATE, 0, 0x1000, 0);
	equal(read32(region + 16 * PIECE + 0x8000), UINT32_MAX, "its file is cut: all ones");
	equal(config(SHM_ID_AT), SHM_ID, "the machine goes on");
}

void test_virtio_shm(void)
{
	if (!find_region())
		return;
	check_piece();
	check_read_only();
	check_moves();
	check_taking_out();
	check_many();
	check_cut();
}
