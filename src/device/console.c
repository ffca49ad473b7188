/*
 * console.c - virtio console: ports, their queues, and the control messages between them
 *
 * What the driver must be told of a port is kept as a set of flags, not as a list of messages: what
 *happens faster than the driver gives buffers is told once, as it is then, and takes no memory.
 *
 *	driver: DEVICE_READY            -> DEVICE_ADD for each port
 *	driver: PORT_READY              -> CONSOLE_PORT, PORT_NAME, RESIZE, PORT_OPEN as they apply
 *	driver: PORT_OPEN               input flows, or waits in the host
 *
 * What the driver said outlives a client that goes and comes back. A process that was restarted
 *finds a control ring that has been used: the driver has said that it is ready, and every port
 *counts as open then, since the messages will not come again.
 *
 * Trusts: no message: short, unknown and absurd ones are logged and ignored.
 * Spec:   virtio 1.3, 5.3.
 */
#include "device/console.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "device/console_port.h"
#include "wire/virtio.h"

#define QUEUE_CONTROL_RX 2 /* to the driver */
#define QUEUE_CONTROL_TX 3

#define MAX_NAME      63
#define MAX_PIECES    16
#define TURN_MESSAGES 64
#define STATE_VERSION 1

/* What the driver is to be told of a port, in this order. */
enum {
	TELL_ADD = 1u << 0,
	TELL_CONSOLE = 1u << 1,
	TELL_NAME = 1u << 2,
	TELL_SIZE = 1u << 3,
	TELL_OPEN = 1u << 4,
};
#define TELL_ALL_BUT_ADD (TELL_CONSOLE | TELL_NAME | TELL_SIZE | TELL_OPEN)

struct port {
	struct console_port port;
	struct console *console;
	unsigned id;
	char guest_name[MAX_NAME + 1];
	bool added, ready; /* what the driver knows of it */
	unsigned tell;
};

struct console {
	struct virtio_model model;
	struct loop_queue control_rx, control_tx;
	bool multiport;	   /* the driver uses the control queues */
	bool driver_ready; /* it has said so */
	struct log_limit limit;
	uint16_t cols, rows;
	unsigned nr_ports;
	struct port ports[];
};

/* What travels in the control queues (virtio 1.3, 5.3.6.2) */
struct resize_message {
	struct virtio_console_control head;
	uint16_t cols, rows;
};
static_assert(sizeof(struct resize_message) == 12, "no padding");

static struct console *console_of(struct virtio_model *m)
{
	return container_of(m, struct console, model);
}

/* Telling the driver */

static void tell(struct port *port, unsigned what)
{
	struct console *c = port->console;

	/* After PORT_READY everything is told as it is then. */
	if (!c->driver_ready || !(port->ready || what == TELL_ADD))
		return;
	port->tell |= what;
	loop_queue_wake(&c->control_rx);
}

/* What the driver need not hear of this port. */
static unsigned moot(const struct port *port)
{
	const struct console *c = port->console;

	return (port->port.console ? 0 : TELL_CONSOLE) | (port->guest_name[0] ? 0 : TELL_NAME) |
	       (port->id == 0 && c->cols && c->rows ? 0 : TELL_SIZE);
}

/* One message about the port: its bytes. */
static size_t make_message(const struct port *port, unsigned what, uint8_t *buf, size_t size)
{
	const struct console *c = port->console;
	struct resize_message m = { .head.id = port->id, .cols = c->cols, .rows = c->rows };
	size_t len = sizeof(m.head);

	assert(size >= sizeof(m) + MAX_NAME);
	switch (what) {
	case TELL_ADD:
		m.head.event = VIRTIO_CONSOLE_PORT_ADD;
		break;
	case TELL_CONSOLE:
		m.head.event = VIRTIO_CONSOLE_CONSOLE_PORT;
		m.head.value = 1;
		break;
	case TELL_NAME:
		m.head.event = VIRTIO_CONSOLE_PORT_NAME;
		m.head.value = 1;
		break;
	case TELL_SIZE:
		m.head.event = VIRTIO_CONSOLE_RESIZE;
		len = sizeof(m);
		break;
	case TELL_OPEN:
		m.head.event = VIRTIO_CONSOLE_PORT_OPEN;
		m.head.value = console_end_connected(port->port.end);
		break;
	}
	memcpy(buf, &m, len);
	if (what == TELL_NAME) {
		memcpy(buf + len, port->guest_name, strlen(port->guest_name));
		len += strlen(port->guest_name);
	}
	return len;
}

/* The next thing to tell, or 0. */
static unsigned next_to_tell(struct console *c, struct port **out)
{
	for (unsigned i = 0; i < c->nr_ports; i++) {
		struct port *port = &c->ports[i];

		port->tell &= ~moot(port);
		if (port->tell) {
			*out = port;
			return port->tell & -port->tell;
		}
	}
	return 0;
}

static bool serve_control_rx(struct loop_queue *q)
{
	struct console *c = container_of(q, struct console, control_rx);
	struct port *port;
	unsigned what, i;

	for (i = 0; i < TURN_MESSAGES && (what = next_to_tell(c, &port)); i++) {
		uint8_t message[sizeof(struct resize_message) + MAX_NAME];
		size_t len = make_message(port, what, message, sizeof(message));
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		int bad = 0;

		if (loop_queue_pop(q, &req, &bad) <= 0)
			break;
		/* A buffer that is too small is of no use; a name may be cut. */
		if (req.in_len >=
			(what == TELL_SIZE ? len : sizeof(struct virtio_console_control))) {
			len = vq_req_write(&req, 0, message, len);
			port->tell &= ~what;
		} else {
			len = 0;
		}
		vq_push(q->vq, &req, (uint32_t)len);
	}
	vq_notify(q->vq);
	return i == TURN_MESSAGES;
}

/* Listening to the driver */

static void driver_is_ready(struct console *c, bool success)
{
	if (!success) {
		log_warn("%s: the guest's driver could not set the device up", c->model.name);
		return;
	}
	c->driver_ready = true;
	for (unsigned i = 0; i < c->nr_ports; i++)
		if (!c->ports[i].added) {
			c->ports[i].added = true;
			tell(&c->ports[i], TELL_ADD);
		}
}

static void port_is_ready(struct port *port, bool success)
{
	port->ready = success;
	if (success)
		tell(port, TELL_ALL_BUT_ADD);
	else
		log_warn("%s: the guest's driver could not set up port %u",
			port->console->model.name, port->id);
}

static void control_message(struct console *c, const struct virtio_console_control *m)
{
	struct port *port = m->id < c->nr_ports ? &c->ports[m->id] : NULL;

	if (m->event == VIRTIO_CONSOLE_DEVICE_READY)
		driver_is_ready(c, m->value == 1);
	else if (port && port->added && m->event == VIRTIO_CONSOLE_PORT_READY)
		port_is_ready(port, m->value == 1);
	else if (port && port->added && m->event == VIRTIO_CONSOLE_PORT_OPEN)
		console_port_open(&port->port, m->value == 1);
	else
		log_limited(&c->limit, LOG_WARN,
			"%s: control message %u for port %u: there is no such, ignored",
			c->model.name, m->event, m->id);
}

static bool serve_control_tx(struct loop_queue *q)
{
	struct console *c = container_of(q, struct console, control_tx);
	unsigned i;

	for (i = 0; i < TURN_MESSAGES; i++) {
		struct virtio_console_control message;
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		size_t len;
		int bad = 0;

		if (loop_queue_pop(q, &req, &bad) <= 0)
			break;
		len = vq_req_read(&req, 0, &message, sizeof(message));
		vq_push(q->vq, &req, 0);
		if (len == sizeof(message))
			control_message(c, &message);
		else
			log_limited(&c->limit, LOG_WARN,
				"%s: a control message of %zu bytes, expected %zu, ignored",
				c->model.name, len, sizeof(message));
	}
	vq_notify(q->vq);
	return i == TURN_MESSAGES;
}

/* What the driver has said is void: it begins anew. */
static void forget_driver(struct console *c)
{
	c->driver_ready = false;
	for (unsigned i = 0; i < c->nr_ports; i++) {
		struct port *port = &c->ports[i];

		port->added = port->ready = false;
		port->tell = 0;
		console_port_open(&port->port, !c->multiport && i == 0);
	}
}

/* It has said it all to the process before this one. */
static void assume_driver(struct console *c)
{
	c->driver_ready = true;
	for (unsigned i = 0; i < c->nr_ports; i++) {
		c->ports[i].added = c->ports[i].ready = true;
		tell(&c->ports[i], TELL_ALL_BUT_ADD);
		console_port_open(&c->ports[i].port, true);
	}
}

/* The host ends */

static void connected(void *arg, bool is)
{
	struct port *port = container_of(arg, struct port, port);

	tell(port, TELL_OPEN);
	console_port_connected(&port->port);
}

static void set_config(struct console *c)
{
	const struct virtio_console_config config = {
		.cols = c->cols,
		.rows = c->rows,
		.max_nr_ports = c->nr_ports,
	};

	memcpy(c->model.config, &config, sizeof(config));
}

static void resized(void *arg)
{
	struct port *port = container_of(arg, struct port, port);
	struct console *c = port->console;

	if (port->id)
		return; /* only port 0 has a size (virtio 1.3, 5.3.6) */
	console_end_size(port->port.end, &c->cols, &c->rows);
	set_config(c);
	tell(port, TELL_SIZE);
	virtio_model_config_changed(&c->model);
}

/* The model */

static void set_features(struct virtio_model *m, uint64_t features)
{
	struct console *c = console_of(m);
	bool multiport = features & VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT);

	if (multiport == c->multiport)
		return;
	c->multiport = multiport;
	forget_driver(c);
}

static void config_write(struct virtio_model *m, size_t off, const void *buf, size_t len)
{
	struct console *c = console_of(m);
	size_t at = offsetof(struct virtio_console_config, emerg_wr);

	/* Its lowest byte is written, whatever state the driver is in. */
	if (off <= at && at - off < len) {
		struct iovec iov = { (char *)buf + (at - off), 1 };

		console_end_put(c->ports[0].port.end, &iov, 1);
	}
}

static int start_control_tx(struct console *c, struct vq *vq)
{
	if (vq_is_new(vq))
		forget_driver(c);
	else if (!c->driver_ready)
		assume_driver(c);
	return loop_queue_start(&c->control_tx, c->model.loop, vq, c->model.name, serve_control_tx);
}

/* The port that a data queue belongs to: 0, 1: port 0; 4, 5: port 1; ... */
static struct console_port *port_of_queue(struct console *c, unsigned queue)
{
	unsigned id = queue < 2 ? 0 : queue / 2 - 1;

	assert(id < c->nr_ports);
	return &c->ports[id].port;
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	struct console *c = console_of(m);
	int rc;

	if (queue == QUEUE_CONTROL_RX)
		rc = loop_queue_start(&c->control_rx, m->loop, vq, m->name, serve_control_rx);
	else if (queue == QUEUE_CONTROL_TX)
		rc = start_control_tx(c, vq);
	else if (queue & 1)
		rc = console_port_start_tx(port_of_queue(c, queue), vq);
	else
		rc = console_port_start_rx(port_of_queue(c, queue), vq);
	if (rc)
		log_warn("%s: kicks of queue %u cannot be watched: %s", m->name, queue,
			strerror(-rc));
	return rc;
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	struct console *c = console_of(m);

	if (queue == QUEUE_CONTROL_RX)
		loop_queue_stop(&c->control_rx);
	else if (queue == QUEUE_CONTROL_TX)
		loop_queue_stop(&c->control_tx);
	else if (queue & 1)
		console_port_stop_tx(port_of_queue(c, queue));
	else
		console_port_stop_rx(port_of_queue(c, queue));
	stopped(arg, queue);
}

static void reset(struct virtio_model *m)
{
	struct console *c = console_of(m);

	c->multiport = false;
	forget_driver(c);
}

/* State: what the driver has said */

static ssize_t save(struct virtio_model *m, void *buf, size_t size)
{
	struct console *c = console_of(m);
	json_t *ports = json_array(), *root;
	size_t len;

	for (unsigned i = 0; i < c->nr_ports; i++)
		json_array_append_new(
			ports, json_pack("{s:b, s:b, s:b, s:I}", "added", c->ports[i].added,
				       "ready", c->ports[i].ready, "open", c->ports[i].port.open,
				       "sent", (json_int_t)c->ports[i].port.sent));
	root = json_pack("{s:s, s:i, s:b, s:b, s:o}", "model", "console", "version", STATE_VERSION,
		"multiport", c->multiport, "ready", c->driver_ready, "ports", ports);
	len = root ? json_dumpb(root, buf, size, JSON_COMPACT) : 0;
	json_decref(root);
	if (!len)
		return -ENOMEM;
	return len <= size ? (ssize_t)len : -ENOSPC;
}

static int load_port(struct port *port, json_t *value, bool apply, struct err *err)
{
	int added, ready, open;
	json_int_t sent;

	if (json_unpack_ex(value, NULL, JSON_STRICT, "{s:b, s:b, s:b, s:I}", "added", &added,
		    "ready", &ready, "open", &open, "sent", &sent) ||
		sent < 0)
		return err_set(err, -EINVAL,
			"port %u: a key is missing, unknown or of another kind", port->id);
	if (!apply)
		return 0;
	port->added = added;
	port->ready = ready;
	port->port.sent = (uint64_t)sent;
	console_port_open(&port->port, open);
	/* Things may be different here: whether somebody is connected, the size. */
	tell(port, TELL_SIZE | TELL_OPEN);
	return 0;
}

static int load_root(struct console *c, json_t *root, struct err *err)
{
	const char *model;
	int version, multiport, ready, rc = 0;
	json_t *ports;

	if (json_unpack_ex(root, NULL, JSON_STRICT, "{s:s, s:i, s:b, s:b, s:o}", "model", &model,
		    "version", &version, "multiport", &multiport, "ready", &ready, "ports", &ports))
		return err_set(err, -EINVAL, "a key is missing, unknown or of another kind");
	if (strcmp(model, "console") || version != STATE_VERSION)
		return err_set(err, -EINVAL, "model %.32s version %d, expected console version %d",
			model, version, STATE_VERSION);
	if (json_array_size(ports) != c->nr_ports)
		return err_set(err, -EINVAL, "%zu ports, expected %u", json_array_size(ports),
			c->nr_ports);
	for (unsigned i = 0; !rc && i < c->nr_ports; i++)
		rc = load_port(&c->ports[i], json_array_get(ports, i), false, err);
	if (rc)
		return rc;
	c->multiport = multiport;
	c->driver_ready = ready;
	for (unsigned i = 0; i < c->nr_ports; i++)
		load_port(&c->ports[i], json_array_get(ports, i), true, err);
	return 0;
}

static int load(struct virtio_model *m, const void *buf, size_t len, struct err *err)
{
	json_t *root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, NULL);
	int rc = root ? load_root(console_of(m), root, err) : err_set(err, -EINVAL, "not JSON");

	json_decref(root);
	return rc;
}

/* Life */

static void free_console(struct virtio_model *m)
{
	struct console *c = console_of(m);

	m->on_config = NULL;
	loop_queue_stop(&c->control_rx);
	loop_queue_stop(&c->control_tx);
	for (unsigned i = 0; i < c->nr_ports; i++)
		console_port_fini(&c->ports[i].port);
	free(c);
}

static const struct virtio_model_ops ops = {
	.set_features = set_features,
	.config_write = config_write,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.reset = reset,
	.save = save,
	.load = load,
	.free = free_console,
};

static int init_port(
	struct console *c, unsigned id, const struct console_port_config *config, struct err *err)
{
	struct port *port = &c->ports[id];
	const struct console_end_user user = {
		.connected = connected,
		.resized = resized,
		.arg = &port->port,
	};
	int rc;

	port->console = c;
	port->id = id;
	if (strlen(config->name) > MAX_NAME)
		return err_set(err, -EINVAL, "port %u: its name has %zu bytes, at most %d", id,
			strlen(config->name), MAX_NAME);
	memcpy(port->guest_name, config->name, strlen(config->name));
	rc = console_port_init(&port->port, c->model.loop, c->model.name,
		config->console || id == 0, &config->end, &user, err);
	return rc ? err_prefix(err, rc, "port %u", id) : 0;
}

int console_new(struct virtio_model **out, struct loop *loop, const struct console_config *config,
	struct err *err)
{
	bool multiport = config->multiport || config->nr_ports > 1;
	struct console *c = calloc(1, sizeof(*c) + config->nr_ports * sizeof(c->ports[0]));
	int rc = 0;

	assert(config->nr_ports >= 1 && config->nr_ports <= CONSOLE_MAX_PORTS);
	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	c->model = (struct virtio_model){
		.ops = &ops,
		.name = config->name,
		.type = VIRTIO_ID_CONSOLE,
		.features = VIRTIO_MODEL_RING_FEATURES | VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE) |
			    VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE) |
			    (multiport ? VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT) : 0),
		.nr_queues = (uint16_t)(multiport ? 2 * (config->nr_ports + 1) : 2),
		.max_queue_size = 1024,
		.config_size = sizeof(struct virtio_console_config),
		.loop = loop,
	};
	c->cols = config->cols;
	c->rows = config->rows;
	for (c->nr_ports = 0; !rc && c->nr_ports < config->nr_ports; c->nr_ports++)
		rc = init_port(c, c->nr_ports, &config->ports[c->nr_ports], err);
	if (rc) {
		free_console(&c->model);
		return rc;
	}
	console_end_size(c->ports[0].port.end, &c->cols, &c->rows);
	set_config(c);
	forget_driver(c);
	*out = &c->model;
	return 0;
}

const char *console_pty_path(const struct virtio_model *m, unsigned port)
{
	const struct console *c = container_of(m, struct console, model);

	return port < c->nr_ports ? console_end_pty_path(c->ports[port].port.end) : NULL;
}
