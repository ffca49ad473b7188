/* vq_fixture.h - a queue between vq_driver.h's driver and a test that plays the device, in one
 * thread */
#ifndef TESTS_VQ_FIXTURE_H
#define TESTS_VQ_FIXTURE_H

#include "device/virtqueue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "vq_driver.h"
#include "wire/vhost_user.h"

#define SIZE	8
#define MAX_IOV 8

struct fix {
	struct drv_mem *m;
	struct drv *d;
	struct vq *vq;
	struct vq_setup s;
	struct err err;
	uint64_t buf; /* of 8 KiB, on a page boundary */
	int call_fd, err_fd;
	struct vq_req req;
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
	int bad;
};

static inline struct fix *new_fix(struct drv_config c)
{
	struct fix *f = calloc(1, sizeof(*f));

	c.size = c.size ? c.size : SIZE;
	f->m = drv_mem_new(1 << 18);
	f->d = drv_new(f->m, &c);
	f->buf = drv_alloc(f->m, 8192, 4096);
	f->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(vq_new(&f->vq, 5, c.size), 0);
	vq_set_call(f->vq, f->call_fd);
	vq_set_err(f->vq, f->err_fd);
	f->s = drv_setup(f->d);
	assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
	assert_null(vq_broken(f->vq));
	return f;
}

static inline void free_fix(struct fix *f)
{
	vq_free(f->vq);
	assert_int_equal(f->m->refs, 0);
	drv_free(f->d);
	drv_mem_free(f->m);
	close(f->call_fd);
	close(f->err_fd);
	free(f);
}

static inline void prepare(struct fix *f, struct vq_req *req)
{
	*req = (struct vq_req){ .iov = f->iov, .iova = f->iova, .max_iov = MAX_IOV };
}

static inline int pop(struct fix *f)
{
	prepare(f, &f->req);
	f->bad = 1;
	return vq_pop(f->vq, &f->req, &f->bad);
}

static inline unsigned signals(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

static inline void add(struct fix *f, unsigned nr_out, unsigned nr_in, uintptr_t cookie)
{
	struct drv_buf b[8];

	for (unsigned i = 0; i < nr_out + nr_in; i++)
		b[i] = (struct drv_buf){ f->buf + 64 * i, 64 };
	assert_int_equal(drv_add(f->d, b, nr_out, nr_in, (void *)cookie), 0);
}

static inline uintptr_t get(struct fix *f, uint32_t *written)
{
	void *cookie = NULL;
	uint32_t n;

	drv_get(f->d, &cookie, written ? written : &n);
	assert_null(f->d->error);
	return (uintptr_t)cookie;
}

/* Push the request that pop() gave. */
static inline void push(struct fix *f, uint32_t written)
{
	vq_push(f->vq, &f->req, written);
}

#endif
