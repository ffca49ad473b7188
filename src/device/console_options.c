/*
 * console_options.c - the console's row in the table of models: options to ports
 *
 * Port 0's end has options of its own, `--pty`, `--file=PATH` and so on. Further ports are a list,
 * --ports=NAME=END,..., where END is pty, null, file:PATH, socket:PATH, fd:N or fd:IN:OUT. A port
 * named "console" is one more console, which needs no name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/sock.h"
#include "base/util.h"
#include "device/console.h"
#include "device/model.h"
#include "device/number.h"

enum {
	OPT_NULL,
	OPT_PTY,
	OPT_TTY,
	OPT_FILE,
	OPT_SOCKET,
	OPT_SOCKET_FD,
	OPT_IN_FD,
	OPT_OUT_FD,
	OPT_SIZE,
	OPT_PORTS,
};

static const struct device_option options[] = {
	[OPT_NULL] = { "null", NULL, "output vanishes, there is no input (default)" },
	[OPT_PTY] = { "pty", NULL, "a new pseudo-terminal; its path is printed to stdout" },
	[OPT_TTY] = { "tty", NULL, "stdin and stdout, a terminal is put into raw mode" },
	[OPT_FILE] = { "file", "PATH", "append output to PATH" },
	[OPT_SOCKET] = { "socket", "PATH", "listen at PATH for one client at a time" },
	[OPT_SOCKET_FD] = { "socket-fd", "N", "listen on descriptor N, likewise" },
	[OPT_IN_FD] = { "in-fd", "N", "input from descriptor N" },
	[OPT_OUT_FD] = { "out-fd", "N", "output to descriptor N, which may be the same" },
	[OPT_SIZE] = { "size", "COLSxROWS", "size of an end that has none of its own" },
	[OPT_PORTS] = { "ports", "NAME=END,...",
		"further ports; END: pty, null, file:PATH, socket:PATH, fd:N or fd:IN:OUT" },
};

static const struct sandbox_call calls[] = {
	{ SYS_readv, "input, straight into the guest's memory" },
	{ SYS_writev, "output" },
	{ SYS_recvfrom, "has a client only finished sending" },
	{ SYS_ioctl, "a terminal's size and mode" },
	{ SYS_unlink, "the socket, at the end" },
	{ SYS_kill, "the process that stands by for the terminal, at the end" },
	{ SYS_wait4, "likewise" },
};

/* One end, as in --ports */

static int parse_fds(const char *text, struct console_end_config *end, struct err *err)
{
	int in, out, used = 0;

	if (sscanf(text, "%d%n", &in, &used) == 1 && !text[used]) {
		out = in;
	} else if (sscanf(text, "%d:%d%n", &in, &out, &used) != 2 || text[used]) {
		return err_set(err, -EINVAL, "'fd:%.32s', expected fd:N or fd:IN:OUT", text);
	}
	if (in < 0 || out < 0)
		return err_set(err, -EINVAL, "'fd:%.32s': a descriptor is not negative", text);
	*end = (struct console_end_config){ .kind = CONSOLE_FDS, .in_fd = in, .out_fd = out };
	return 0;
}

static int parse_end(const char *text, struct console_end_config *end, struct err *err)
{
	*end = (struct console_end_config){ .in_fd = -1, .out_fd = -1 };
	if (!strcmp(text, "null"))
		end->kind = CONSOLE_NULL;
	else if (!strcmp(text, "pty"))
		end->kind = CONSOLE_PTY;
	else if (!strncmp(text, "file:", 5) && text[5])
		end->kind = CONSOLE_FILE;
	else if (!strncmp(text, "socket:", 7) && text[7])
		end->kind = CONSOLE_SOCKET;
	else if (!strncmp(text, "fd:", 3))
		return parse_fds(text + 3, end, err);
	else
		return err_set(err, -EINVAL,
			"'%.64s', expected pty, null, file:PATH, socket:PATH or fd:N", text);
	end->path = strchr(text, ':') ? strchr(text, ':') + 1 : NULL;
	return 0;
}

/* list is cut into its pieces, which the ports point into. */
static int parse_ports(char *list, struct console_port_config *ports, unsigned *nr, struct err *err)
{
	char *item;

	while ((item = strsep(&list, ","))) {
		struct console_port_config *port = &ports[*nr];
		char *equals = strchr(item, '=');
		int rc;

		if (*nr == CONSOLE_MAX_PORTS)
			return err_set(err, -E2BIG, "--ports: at most %d, with the first one",
				CONSOLE_MAX_PORTS);
		if (!equals || equals == item)
			return err_set(err, -EINVAL, "--ports: '%.64s', expected NAME=END", item);
		*equals = '\0';
		port->console = !strcmp(item, "console");
		port->name = port->console ? "" : item;
		rc = parse_end(equals + 1, &port->end, err);
		if (rc)
			return err_prefix(err, rc, "--ports: %.64s", item);
		(*nr)++;
	}
	return 0;
}

/* Port 0 */

static int parse_fd(const char *const *values, int option, int *fd, struct err *err)
{
	uint64_t number;
	int rc;

	if (!values[option])
		return 0;
	rc = number_option(options[option].name, values[option], 0, 0, INT32_MAX, &number, err);
	if (!rc)
		*fd = (int)number;
	return rc;
}

static int parse_first_fds(
	const char *const *values, struct console_end_config *end, struct err *err)
{
	int rc;

	if (values[OPT_SOCKET_FD]) {
		end->kind = CONSOLE_SOCKET;
		return parse_fd(values, OPT_SOCKET_FD, &end->in_fd, err);
	}
	end->kind = CONSOLE_FDS;
	rc = parse_fd(values, OPT_IN_FD, &end->in_fd, err);
	return rc ? rc : parse_fd(values, OPT_OUT_FD, &end->out_fd, err);
}

static int parse_first(const char *const *values, struct console_end_config *end, struct err *err)
{
	bool fds = values[OPT_IN_FD] || values[OPT_OUT_FD];

	*end = (struct console_end_config){ .kind = CONSOLE_NULL, .in_fd = -1, .out_fd = -1 };
	if (!!values[OPT_NULL] + !!values[OPT_PTY] + !!values[OPT_TTY] + !!values[OPT_FILE] +
			!!values[OPT_SOCKET] + !!values[OPT_SOCKET_FD] + fds >
		1)
		return err_set(err, -EINVAL,
			"--null, --pty, --tty, --file, --socket and descriptors exclude each other");
	if (fds || values[OPT_SOCKET_FD])
		return parse_first_fds(values, end, err);
	if (values[OPT_PTY])
		end->kind = CONSOLE_PTY;
	else if (values[OPT_TTY])
		end->kind = CONSOLE_TTY;
	else if (values[OPT_FILE])
		*end = (struct console_end_config){ CONSOLE_FILE, values[OPT_FILE], -1, -1 };
	else if (values[OPT_SOCKET])
		*end = (struct console_end_config){ CONSOLE_SOCKET, values[OPT_SOCKET], -1, -1 };
	return 0;
}

static int parse_size(const char *text, struct console_config *config, struct err *err)
{
	unsigned cols, rows;
	int used = 0;

	if (!text)
		return 0;
	if (sscanf(text, "%5ux%5u%n", &cols, &rows, &used) != 2 || text[used] || !cols || !rows ||
		cols > UINT16_MAX || rows > UINT16_MAX)
		return err_set(
			err, -EINVAL, "--size: '%.32s', expected COLSxROWS, as in 80x25", text);
	config->cols = (uint16_t)cols;
	config->rows = (uint16_t)rows;
	return 0;
}

/* For scripts: the path of port 0, NAME=PATH of others. */
static void print_ptys(const struct virtio_model *m, const struct console_config *config)
{
	for (unsigned i = 0; i < config->nr_ports; i++) {
		const char *path = console_pty_path(m, i), *name = config->ports[i].name;

		if (path)
			printf("%s%s%s\n", i ? *name ? name : "console" : "", i ? "=" : "", path);
	}
	fflush(stdout);
}

static int new_virtio(
	const char *const *values, struct loop *loop, struct virtio_model **out, struct err *err)
{
	struct console_port_config ports[CONSOLE_MAX_PORTS] = { { .name = "", .console = true } };
	struct console_config config = {
		.name = "console",
		.nr_ports = 1,
		.ports = ports,
		.multiport = values[OPT_PORTS],
	};
	FREE_AUTO char *list = NULL;
	int rc = parse_first(values, &ports[0].end, err);

	if (!rc)
		rc = parse_size(values[OPT_SIZE], &config, err);
	if (!rc && values[OPT_PORTS]) {
		list = strdup(values[OPT_PORTS]);
		if (!list)
			return err_set(err, -ENOMEM, "out of memory");
		rc = parse_ports(list, ports, &config.nr_ports, err);
	}
	if (!rc)
		rc = console_new(out, loop, &config, err);
	if (!rc)
		print_ptys(*out, &config);
	return rc;
}

const struct device_model console_model = {
	.name = "console",
	.summary = "virtio console, with any number of ports",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.calls = calls,
	.nr_calls = ARRAY_SIZE(calls),
	.made_file = "socket",
	.new_virtio = new_virtio,
};
