/*
 * our_client.c - the project's own vfio-user client (src/attach), measured without a guest
 *
 * As in the VMM, one thread runs the loop, and another, which stands for a vCPU, makes the
 * accesses. The owner below is the least that the transport asks for. The client tells the server
 * of guest RAM, so there is a KVM machine with some, without a vCPU.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "attach/vfio_user.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "card.h"
#include "machine/kvm.h"
#include "machine/memory.h"
#include "rounds.h"

#define RAM_SIZE (64 * MIB)

struct client {
	struct loop *loop;
	struct kvm kvm;
	struct memory *memory;
	struct vfio_user *vu;
	struct vfio_transport *transport;
	struct vfio_owner owner;
	struct rounds rounds;
	struct err err;
	int status; /* of the rounds */
};

/* --- the owner --- */

static int prepare(
	struct vfio_owner *o, const uint8_t *config, unsigned size, bool again, struct err *err)
{
	return 0;
}

static void restore(struct vfio_owner *o)
{
}

static bool irqs_refused(struct vfio_owner *o, uint32_t index, uint32_t flags)
{
	return true;
}

static bool ready(struct vfio_owner *o, bool again)
{
	struct client *c = container_of(o, struct client, owner);

	c->transport->ops->open(c->transport);
	loop_quit(c->loop, 0);
	return true;
}

static void lost(struct vfio_owner *o)
{
	struct client *c = container_of(o, struct client, owner);

	err_set(&c->err, -ECONNRESET, "the server was lost");
	loop_quit(c->loop, -ECONNRESET);
}

static void failed(struct vfio_owner *o, int rc, const struct err *err)
{
	struct client *c = container_of(o, struct client, owner);

	c->err = *err;
	loop_quit(c->loop, rc);
}

static const struct vfio_owner_ops owner_ops = {
	.prepare = prepare,
	.restore = restore,
	.irqs_refused = irqs_refused,
	.ready = ready,
	.lost = lost,
	.failed = failed,
};

/* --- what is measured --- */

static int read_byte(void *arg, uint8_t *value)
{
	struct client *c = arg;

	return c->transport->ops->region_read(c->transport, CARD_BAR, CARD_REGISTER, value, 1);
}

static int post_byte(void *arg, uint8_t value)
{
	struct client *c = arg;

	return c->transport->ops->region_write(
		c->transport, CARD_BAR, CARD_REGISTER, &value, 1, VFIO_CALL_POST);
}

static int write_byte(void *arg, uint8_t value)
{
	struct client *c = arg;

	return c->transport->ops->region_write(
		c->transport, CARD_BAR, CARD_REGISTER, &value, 1, VFIO_CALL_WAIT);
}

static void *measure(void *arg)
{
	static const struct rounds_ops ops = { read_byte, post_byte, write_byte };
	struct client *c = arg;

	c->status = rounds_run(&c->rounds, &ops, c);
	loop_quit(c->loop, 0);
	return NULL;
}

/* --- */

static int connect_device(struct client *c)
{
	struct memory_params mp = { .size = RAM_SIZE };
	struct vfio_user_params p = { .id = "bench", .socket = c->rounds.socket_path };
	int rc = loop_new(&c->loop);

	if (!rc)
		rc = kvm_open(&c->kvm, &c->err);
	if (!rc)
		rc = memory_new(&c->kvm, &mp, &c->memory, &c->err);
	if (rc)
		return rc;
	c->owner.ops = &owner_ops;
	p.loop = c->loop;
	p.memory = c->memory;
	p.owner = &c->owner;
	rc = vfio_user_new(&p, &c->vu);
	if (rc)
		return err_set(&c->err, rc, "%s", strerror(-rc));
	c->transport = vfio_user_transport(c->vu);
	rc = vfio_user_start(c->vu, &c->err);
	return rc ? rc : loop_run(c->loop);
}

static int run(struct client *c)
{
	pthread_t thread;
	int rc = connect_device(c);

	if (!rc)
		rc = -pthread_create(&thread, NULL, measure, c);
	if (rc)
		return rc;
	rc = loop_run(c->loop);
	pthread_join(thread, NULL);
	return rc;
}

int main(int argc, char **argv)
{
	static struct client c = { .status = 1 };
	int rc;

	log_init("our_client", LOG_WARN);
	rounds_options(argc, argv, &c.rounds);
	rc = run(&c);
	if (rc)
		fprintf(stderr, "our_client: %s\n", c.err.text[0] ? c.err.text : strerror(-rc));
	vfio_user_free(c.vu);
	memory_free(c.memory);
	kvm_close(&c.kvm);
	loop_free(c.loop);
	return rc ? 1 : c.status;
}
