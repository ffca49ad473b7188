/* device_bind_main.c - the command lines of device-bind and device-unbind (see device_bind.h) */
#include <errno.h>
#include <string.h>

#include "control/device_bind.h"
#include "control/grammar.h"
#include "control/hint.h"

enum exit_status { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

#define PRINTED 1

struct command {
	const char *name;
	struct device_binder binder;
	bool binds; /* else it gives back */
	bool list;
	int nr; /* devices, at argv[0] to argv[nr - 1] */
};

static const char help_bind[] =
	"Usage: outboard device-bind [OPTION]... BDF|PATH...\n"
	"       outboard device-bind --list\n"
	"\n"
	"Take PCI devices from the drivers of this host and bind them to vfio-pci, so that\n"
	"outboard --device can hand them to a guest. A device is named by its address\n"
	"(0000:01:00.0, 01:00.0) or its directory in sysfs. Bridges and devices that this\n"
	"host uses are refused. What has failed is undone.\n"
	"\n"
	"Options:\n"
	"  --list         print the devices of this host: numbers, IOMMU group, driver, ways to\n"
	"                 reset them, and whether a guest can have them\n"
	"  --driver=NAME  bind them to another driver of VFIO (default: vfio-pci)\n"
	"  --force        also devices that this host uses\n"
	"  -h, --help     print this text\n";

static const char help_unbind[] =
	"Usage: outboard device-unbind [OPTION]... BDF|PATH...\n"
	"\n"
	"Give PCI devices back to the drivers from which outboard device-bind took them, or to\n"
	"those that the kernel chooses. Devices that a program holds are refused.\n"
	"\n"
	"Options:\n"
	"  --force     ask whoever holds them to let go, and wait for it\n"
	"  -h, --help  print this text\n";

static int complain(const struct command *c, int status, const char *text)
{
	fprintf(stderr, "outboard %s: %s\n", c->name, text);
	return status;
}

static int unknown(const struct command *c, const char *word, struct err *err)
{
	static const char *const names[] = { "--force", "--help", "--list", "--driver" };
	struct hint hint = HINT_NONE;

	for (int i = 0; i < (c->binds ? 4 : 2); i++)
		hint_offer(&hint, word, names[i]);
	return err_set(err, -EINVAL, "\"%s\": unknown option; %s%s%s", grammar_show(word).text,
		hint.name ? "did you mean " : "--help lists them", hint.name ? hint.name : "",
		hint.name ? "?" : "");
}

static int take_option(struct command *c, const char *word, struct err *err)
{
	static const char driver[] = "--driver=";

	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		fputs(c->binds ? help_bind : help_unbind, stdout);
		return PRINTED;
	}
	if (!strcmp(word, "--force"))
		c->binder.force = true;
	else if (c->binds && !strcmp(word, "--list"))
		c->list = true;
	else if (c->binds && !strncmp(word, driver, strlen(driver)))
		c->binder.driver = word + strlen(driver);
	else
		return unknown(c, word, err);
	if (!vfio_driver_hands_on(c->binder.driver) || strchr(c->binder.driver, '/') ||
		strlen(c->binder.driver) >= VFIO_NAME)
		return err_set(err, -EINVAL,
			"--driver: expected a driver of VFIO such as vfio-pci, got \"%s\"",
			grammar_show(c->binder.driver).text);
	return 0;
}

/* Options may stand anywhere; devices are gathered at the front of argv. */
static int parse(struct command *c, char **argv, struct err *err)
{
	int rc = 0;

	for (char **word = argv; !rc && *word; word++) {
		if (**word == '-')
			rc = take_option(c, *word, err);
		else
			argv[c->nr++] = *word;
	}
	if (rc)
		return rc;
	if (c->list && c->nr)
		return err_set(err, -EINVAL, "--list: expected no device beside it, got \"%s\"",
			grammar_show(argv[0]).text);
	if (!c->list && !c->nr)
		return err_set(err, -EINVAL, "expected the address of a device (0000:01:00.0)%s",
			c->binds ? "; --list shows them" : "");
	return 0;
}

static int each(struct command *c, char **argv)
{
	int status = EXIT_DONE;

	for (int i = 0; i < c->nr; i++) {
		struct err err = { 0 };
		int rc = c->binds ? device_bind(&c->binder, argv[i], &err)
				  : device_unbind(&c->binder, argv[i], &err);

		if (rc)
			status = complain(c, EXIT_REFUSED, err.text);
	}
	return status;
}

/* When all are bound, for two of one group are no longer in each other's way then. */
static int groups(const struct command *c, char **argv)
{
	bool ready;

	for (int i = 0; i < c->nr; i++) {
		struct err err = { 0 };

		if (device_bind_check_group(&c->binder, argv[i], &ready, &err))
			return complain(c, EXIT_REFUSED, err.text);
	}
	return EXIT_DONE;
}

static int run(struct command *c, char **argv)
{
	struct err err = { 0 };
	int status = EXIT_DONE;

	if (c->list && device_bind_list(NULL, stdout, &err))
		return complain(c, EXIT_REFUSED, err.text);
	if (!c->list)
		status = each(c, argv);
	if (!c->list && c->binds && status == EXIT_DONE)
		status = groups(c, argv);
	return status;
}

static int command_main(struct command *c, char **argv)
{
	struct err err = { 0 };
	int status, rc = parse(c, argv, &err);

	if (rc < 0)
		return complain(c, EXIT_USAGE, err.text);
	status = rc == PRINTED ? EXIT_DONE : run(c, argv);
	if (fflush(stdout) || ferror(stdout))
		return complain(c, EXIT_REFUSED, "standard output cannot be written");
	return status;
}

int device_bind_main(int argc, char **argv)
{
	struct command c = { .name = "device-bind",
		.binder = { .driver = "vfio-pci", .out = stdout },
		.binds = true };

	return command_main(&c, argv + (argc > 0));
}

int device_unbind_main(int argc, char **argv)
{
	struct command c = { .name = "device-unbind",
		.binder = { .driver = "vfio-pci", .out = stdout } };

	return command_main(&c, argv + (argc > 0));
}
