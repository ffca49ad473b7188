/*
 * fake_memory.h - guest RAM without KVM, for tests of what only writes into it
 *
 * Include it in one file of a test program: it stands in for memory.c, of which it has as much as
 * boot and ACPI use. RAM is a memfd, split at the 32-bit hole as the real one.
 */
#ifndef TESTS_FAKE_MEMORY_H
#define TESTS_FAKE_MEMORY_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/layout.h"
#include "machine/memory.h"

struct memory {
	unsigned nr;
	struct mem_range ranges[2];
	int fd;
	uint8_t *hva;
	uint64_t size;
};

static struct memory *fake_memory_new(uint64_t size)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->size = size;
	m->fd = memfd_create("ram", MFD_CLOEXEC);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)size))
		abort();
	m->hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
	if (m->hva == MAP_FAILED)
		abort();
	m->ranges[m->nr++] = (struct mem_range){
		.gpa = 0, .size = MIN(size, LAYOUT_HOLE), .fd = m->fd, .hva = m->hva
	};
	if (size > LAYOUT_HOLE)
		m->ranges[m->nr++] = (struct mem_range){ .gpa = LAYOUT_4G,
			.size = size - LAYOUT_HOLE,
			.fd = m->fd,
			.fd_offset = LAYOUT_HOLE,
			.hva = m->hva + LAYOUT_HOLE };
	return m;
}

static void fake_memory_free(struct memory *m)
{
	munmap(m->hva, m->size);
	close(m->fd);
	free(m);
}

unsigned memory_nr_ranges(const struct memory *m)
{
	return m->nr;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->ranges[i];
}

uint64_t memory_size(const struct memory *m)
{
	return m->size;
}

void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->nr; i++)
		if (gpa >= m->ranges[i].gpa &&
			range_ok(gpa - m->ranges[i].gpa, len, m->ranges[i].size))
			return (uint8_t *)m->ranges[i].hva + (gpa - m->ranges[i].gpa);
	return NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	const void *from = memory_ptr(m, gpa, len);

	if (!from)
		return -EFAULT;
	memcpy(buf, from, len);
	return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len)
{
	void *to = memory_ptr(m, gpa, len);

	if (!to)
		return -EFAULT;
	memcpy(to, buf, len);
	return 0;
}

#endif
