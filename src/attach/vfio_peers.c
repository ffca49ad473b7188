/*
 * vfio_peers.c - parts of BARs in the host's IOMMU, so that other devices reach them
 *
 * A guest lays its BARs from a vCPU, and the loop does when a device has come, both under the
 * topology lock; but to map needs io->lock, and whoever attaches or gives back a device has it for
 * seconds. So what is asked for is only noted, in a list, and a worker carries the list out, in
 * order. What was not begun yet when it is to be unmapped is struck off. A device is not given
 * back before all that was asked for has been done.
 *
 * A map that is being made needs its memory until the call returns: mapping something else there
 * meanwhile would give that to devices. So who asked hands the memory over when he needs it no
 * more.
 *
 * Owns:    the list, and memory that was handed over.
 * Locks:   io->lock while the list is carried out; inside it io->peers_lock, for the list, which is
 *          never held while anything is waited for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "attach/vfio_iommu_priv.h"
#include "base/clock.h"
#include "base/log.h"

struct vfio_peer_map {
	char id[32];
	uint64_t iova, size;
	void *hva;
	uint64_t handed_over; /* bytes at hva that go with it; 0: none */
	bool begun;	      /* mapped, or just being mapped */
	bool unwanted;
	struct vfio_peer_map *next;
};

/* --- the list: peers_lock held --- */

/* The first one that there is something to do about. */
static struct vfio_peer_map *first_to_do(const struct vfio_iommu *io)
{
	struct vfio_peer_map *m = io->peers;

	while (m && m->begun && !m->unwanted)
		m = m->next;
	return m;
}

static void strike_off(struct vfio_iommu *io, struct vfio_peer_map *m)
{
	struct vfio_peer_map **at = &io->peers;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (m->handed_over)
		munmap(m->hva, m->handed_over);
	free(m);
}

/* --- carrying it out: io->lock held --- */

static const char *p2p_hint(const struct vfio_backend *backend, int rc)
{
	switch (rc) {
	case -EFAULT:
		return backend == &vfio_iommufd ? "this kernel's iommufd maps no device memory"
						: "it does not answer now";
	case -ERANGE:
		return "it lies where the IOMMU cannot translate";
	default:
		return strerror(-rc);
	}
}

/* A device alone has no peer, and some kernels take seconds to map a large BAR, page by page. */
static bool maps_bars(const struct vfio_iommu *io)
{
	return io->nr_devices > 1 && !io->noiommu && !atomic_load(&io->no_p2p);
}

static int map(struct vfio_iommu *io, const struct vfio_peer_map *m)
{
	int rc;

	if (!maps_bars(io))
		return -ENODEV;
	rc = vfio_in_ranges(&io->ranges, m->iova, m->size)
		     ? io->backend->map(io, m->iova, m->size, m->hva, DMA_CAN_READ | DMA_CAN_WRITE)
		     : -ERANGE;
	/* It will not be able to later. */
	if (rc == -EFAULT && io->backend == &vfio_iommufd)
		atomic_store(&io->no_p2p, true);
	if (rc && !io->p2p_said)
		log_warn(
			"%s: other devices cannot reach its memory at 0x%llx (%llu bytes) directly: %s",
			m->id, (unsigned long long)m->iova, (unsigned long long)m->size,
			p2p_hint(io->backend, rc));
	io->p2p_said |= rc != 0;
	return rc;
}

static void unmap(struct vfio_iommu *io, const struct vfio_peer_map *m)
{
	int rc = io->backend ? io->backend->unmap(io, m->iova, m->size, NULL) : 0;

	if (rc)
		log_warn("the IOMMU does not unmap device memory at 0x%llx: %s",
			(unsigned long long)m->iova, strerror(-rc));
}

/* peers_lock held, let go of for each call to the kernel. */
static void see_to_one(struct vfio_iommu *io, struct vfio_peer_map *m)
{
	bool gone = m->unwanted;
	int rc = 0;

	m->begun = true;
	pthread_mutex_unlock(&io->peers_lock);
	if (gone)
		unmap(io, m);
	else
		rc = map(io, m);
	pthread_mutex_lock(&io->peers_lock);
	if (gone || rc)
		strike_off(io, m);
}

/* As above. */
static void see_to_all(struct vfio_iommu *io)
{
	struct vfio_peer_map *m;

	io->peers_busy = true;
	while ((m = first_to_do(io)))
		see_to_one(io, m);
	io->peers_busy = false;
	pthread_cond_broadcast(&io->peers_done);
}

void vfio_peers_see_to(struct vfio_iommu *io)
{
	pthread_mutex_lock(&io->peers_lock);
	see_to_all(io);
	pthread_mutex_unlock(&io->peers_lock);
}

/* --- having it carried out --- */

static void work(void *arg)
{
	struct vfio_iommu *io = arg;

	pthread_mutex_lock(&io->lock);
	pthread_mutex_lock(&io->peers_lock);
	io->peers_posted = false;
	see_to_all(io);
	pthread_mutex_unlock(&io->peers_lock);
	pthread_mutex_unlock(&io->lock);
	vfio_iommu_drop(io);
}

/*
 * peers_lock held. What cannot be posted is done with what comes next, at the latest when the
 * device is given back.
 */
static void post(struct vfio_iommu *io)
{
	int rc;

	if (!io->worker || io->peers_posted || !first_to_do(io))
		return;
	rc = worker_do(io->worker, work, vfio_iommu_hold(io));
	io->peers_posted = !rc;
	if (!rc)
		return;
	atomic_fetch_sub(&io->users, 1); /* the caller is another one */
	log_limited(&io->complaints, LOG_WARN, "device memory for other devices: %s", strerror(-rc));
}

static void unlock_and_go_on(struct vfio_iommu *io)
{
	post(io);
	pthread_mutex_unlock(&io->peers_lock);
	if (io->worker)
		return;
	pthread_mutex_lock(&io->lock);
	vfio_peers_see_to(io);
	pthread_mutex_unlock(&io->lock);
}

void vfio_iommu_map(struct vfio_iommu *io, const char *id, uint64_t iova, uint64_t size, void *hva)
{
	struct vfio_peer_map *m, **end = &io->peers;

	if (atomic_load(&io->no_p2p))
		return;
	m = calloc(1, sizeof(*m));
	if (!m) {
		log_warn("%s: out of memory: other devices do not reach its memory", id);
		return;
	}
	*m = (struct vfio_peer_map){ .iova = iova, .size = size, .hva = hva };
	snprintf(m->id, sizeof(m->id), "%s", id);
	pthread_mutex_lock(&io->peers_lock);
	while (*end)
		end = &(*end)->next;
	*end = m;
	unlock_and_go_on(io);
}

void vfio_iommu_unmap(struct vfio_iommu *io, uint64_t iova, uint64_t size)
{
	struct vfio_peer_map *m;

	pthread_mutex_lock(&io->peers_lock);
	for (m = io->peers; m && (m->unwanted || m->iova != iova || m->size != size); m = m->next)
		;
	if (m && !m->begun)
		strike_off(io, m);
	else if (m)
		m->unwanted = true;
	unlock_and_go_on(io);
}

void vfio_iommu_take(struct vfio_iommu *io, void *hva, uint64_t size)
{
	struct vfio_peer_map *last = NULL;

	pthread_mutex_lock(&io->peers_lock);
	for (struct vfio_peer_map *m = io->peers; m; m = m->next)
		if (m->hva == hva)
			last = m;
	if (last)
		last->handed_over = size;
	pthread_mutex_unlock(&io->peers_lock);
	if (!last)
		munmap(hva, size);
}

void vfio_iommu_settle(struct vfio_iommu *io)
{
	const struct timespec until = clock_timespec(clock_now_ns() + VFIO_SETTLE_MS * NS_PER_MS);
	int rc = 0;

	pthread_mutex_lock(&io->peers_lock);
	while (!rc && (io->peers_posted || io->peers_busy))
		rc = pthread_cond_timedwait(&io->peers_done, &io->peers_lock, &until);
	pthread_mutex_unlock(&io->peers_lock);
}

/* --- life --- */

void vfio_peers_init(struct vfio_iommu *io)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&io->peers_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&io->peers_done, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void vfio_peers_fini(struct vfio_iommu *io)
{
	while (io->peers)
		strike_off(io, io->peers);
	pthread_cond_destroy(&io->peers_done);
	pthread_mutex_destroy(&io->peers_lock);
}
