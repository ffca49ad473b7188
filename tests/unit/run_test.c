/* run_test.c - `outboard run`: that its table is sound, and what crosvm's words make of a machine */
#include "control/run.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "control/field.h"
#include "control/options.h"

#define COMMAND_LINE_PROGRAM "run"
#define COMMAND_LINE_PARSE   run_parse
#include "command_line.h"

/* --- the table --- */

static bool takes_fields(const struct option_row *o)
{
	return o->kind == OPTION_FIELDS || o->kind == OPTION_LIST;
}

/* What a row stores must be what its owner's row frees. */
static void assert_owned(const struct option_row *o, const struct field_row *f)
{
	const struct option_row *owner = o->of ? option_find(o->of) : NULL;
	bool text = f->type == FIELD_STRING || f->type == FIELD_PATH || f->type == FIELD_SOCKET ||
		    f->type == FIELD_INT_LIST;
	bool found = false;

	if (!owner || f->refused || !text)
		return;
	for_each_field (g, owner)
		found |= !g->refused && g->offset == f->offset && g->size == f->size;
	assert_true(found);
}

static void every_row_of_the_table_is_sound(void **state)
{
	for_each_row (o, run_table) {
		const struct option_row *owner = o->of ? option_find(o->of) : NULL;

		assert_ptr_equal(option_find_in(run_table, o->name), o);
		assert_true(o->kind == OPTION_REFUSED || o->help);
		assert_true(!o->of || owner);
		assert_true(!o->bare || field_find(o, o->bare));
		assert_true(!o->like || option_find_in(run_table, o->like) < o);
		assert_true(o->kind != OPTION_LIST || o->item_size);
		if (owner && o->kind != OPTION_FLAG)
			assert_int_equal(o->offset, owner->offset);
		if (owner && o->kind == OPTION_LIST)
			assert_int_equal(o->item_size, owner->item_size);
		for_each_field (f, o) {
			assert_ptr_equal(field_find(o, f->name), f);
			assert_true(f->refused || !takes_fields(o) || (f->help && f->arg));
			assert_true(f->refused || f->size || o->kind == OPTION_TEXTS);
			assert_true(!f->flag || f->type == FIELD_TOGGLE);
			assert_true(!f->unit || (f->size == 8 && f->max <= UINT64_MAX / f->unit));
			assert_owned(o, f);
		}
		for (const struct field_row *f = o->presets; f && f->name; f++) {
			assert_true(f->fallback && f->size);
			assert_owned(o, f);
		}
	}
}

static void letters_are_unique(void **state)
{
	for_each_row (o, run_table)
		for_each_row (p, run_table)
			assert_true(o == p || !o->letter || o->letter != p->letter);
	for_each_row (o, run_table)
		for_each_option (p)
			assert_true(!o->letter || o->letter != p->letter);
}

/* --- machines --- */

static void nothing_given_is_what_crosvm_gives(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("bzImage"));
	assert_string_equal(config.payload.kernel, "bzImage");
	assert_string_equal(config.payload.cmdline, "console=ttyS0");
	assert_null(config.payload.initramfs);
	assert_int_equal(config.memory.size, 256 * MIB);
	assert_int_equal(config.cpus.boot, 1);
	assert_int_equal(config.serial.mode, CONSOLE_TTY);
	assert_int_equal(config.console.mode, CONSOLE_OFF);
	assert_int_equal(config.seccomp, SECCOMP_KILL);
	assert_int_equal(config.disks.nr, 0);
	assert_int_equal(config.platform.num_pci_segments, 1);
	config_fini(&config);
}

static void the_guide_s_device_vm_is_understood(void **state)
{
	struct vm_config config;
	const struct vvu_proxy_config *v;

	accept_args(&config, ARGS("--vvu-proxy", "/tmp/vvu.sock,addr=0000:00:10.0", "-p",
		"vfio_iommu_type1.allow_unsafe_interrupts=1", "-m", "4096", "bzImage"));
	assert_int_equal(config.vvu_proxies.nr, 1);
	v = &config.vvu_proxies.items[0];
	assert_string_equal(v->socket, "/tmp/vvu.sock");
	assert_int_equal(v->at.pci_segment, 0);
	assert_int_equal(v->at.pci_device_id, 0x10);
	assert_true(v->at.iommu); /* or vfio-pci would not take it */
	assert_int_equal(v->max_queues, 16);
	assert_true(config_wants_iommu(&config));
	assert_int_equal(config.memory.size, 4096 * MIB);
	assert_string_equal(config.payload.cmdline,
		"console=ttyS0 vfio_iommu_type1.allow_unsafe_interrupts=1");
	config_fini(&config);
	accept_args(&config, ARGS("--vvu-proxy", "a,iommu=off,shmem-size=2G,max-queues=4,"
		"disconnect=zero-len,uuid=c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c", "k"));
	assert_false(config.vvu_proxies.items[0].at.iommu);
	assert_true(config.vvu_proxies.items[0].shmem_size == 2 * GIB);
	assert_int_equal(config.vvu_proxies.items[0].max_queues, 4);
	assert_non_null(config.vvu_proxies.items[0].uuid);
	config_fini(&config);
}

static void the_guide_s_sibling_is_understood(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--vhost-user-blk", "/tmp/vvu.sock", "-m", "512", "bzImage"));
	assert_int_equal(config.generic_vhost_users.nr, 1);
	assert_string_equal(config.generic_vhost_users.items[0].socket, "/tmp/vvu.sock");
	assert_string_equal(config.generic_vhost_users.items[0].type, "block");
	assert_int_equal(config.generic_vhost_users.items[0].queue_sizes.nr, 0);
	assert_int_equal(config.generic_vhost_users.items[0].backend.connect_timeout_s, 10);
	assert_int_equal(config.memory.size, 512 * MIB);
	config_fini(&config);
}

static void every_kind_of_back_end_has_its_option(void **state)
{
	struct vm_config config;
	const struct generic_vhost_user_config *g;

	accept_args(&config, ARGS("--vhost-user-console", "a", "--vhost-user-rng", "b",
		"--vhost-user-vsock", "c", "--vhost-user", "gpu,socket=d,pci-address=00:07.0",
		"--vhost-user-net", "e", "--vhost-user-fs", "f:g:tag", "--vhost-user-fs",
		"h:i,tag=j", "--vhost-user-connect-timeout-ms", "1500", "k"));
	assert_int_equal(config.generic_vhost_users.nr, 4);
	g = config.generic_vhost_users.items;
	assert_string_equal(g[0].type, "console");
	assert_string_equal(g[1].type, "rng");
	assert_string_equal(g[2].type, "vsock");
	assert_string_equal(g[3].type, "gpu");
	assert_int_equal(g[3].at.pci_device_id, 7);
	assert_int_equal(g[0].at.pci_device_id, CONFIG_SLOT_ANY);
	assert_true(config.nets.items[0].vhost_user);
	assert_string_equal(config.nets.items[0].socket, "e");
	assert_string_equal(config.fs.items[0].socket, "f:g");
	assert_string_equal(config.fs.items[0].tag, "tag");
	assert_string_equal(config.fs.items[1].socket, "h:i");
	assert_string_equal(config.fs.items[1].tag, "j");
	assert_int_equal(g[0].backend.connect_timeout_s, 2);
	assert_int_equal(config.fs.items[1].backend.connect_timeout_s, 2);
	assert_int_equal(config.nets.items[0].backend.connect_timeout_s, 2);
	config_fini(&config);
}

static void disks_come_in_five_words(void **state)
{
	struct vm_config config;
	const struct disk_config *d;

	accept_args(&config, ARGS("-b", "a,ro,id=S,direct", "--rwdisk", "b", "-d", "c", "-r", "d",
		"--vhost-user-blk", "v", "--block", "path=e,ro=false,o_direct=true,sparse=true,block_size=512", "k"));
	assert_int_equal(config.disks.nr, 5);
	d = config.disks.items;
	assert_true(d[0].readonly && d[0].direct);
	assert_string_equal(d[0].serial, "S");
	assert_true(!d[1].readonly && d[2].readonly && d[3].readonly && !d[4].readonly);
	assert_true(d[4].direct && !d[1].direct);
	assert_string_equal(d[4].path, "e");
	assert_int_equal(d[1].num_queues, 1);
	/* the back-end's disk is the first, then a to d */
	assert_string_equal(config.payload.cmdline, "console=ttyS0 root=/dev/vde ro");
	config_fini(&config);
	accept_args(&config, ARGS("--rwroot", "a", "-p", "quiet", "-p", "init=/bin/sh -x", "k"));
	assert_string_equal(config.payload.cmdline,
		"console=ttyS0 root=/dev/vda rw quiet init=/bin/sh -x");
	config_fini(&config);
	accept_args(&config, ARGS("--block", "ro,root", "k")); /* a file of that name */
	assert_string_equal(config.disks.items[0].path, "ro");
	assert_true(config.disks.items[0].root && !config.disks.items[0].readonly);
	config_fini(&config);
}

static void networks_and_host_devices_are_understood(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--net", "tap-name=t,mac=2e:89:a8:e4:bf:95", "--net",
		"host-ip=10.0.0.1,netmask=255.255.255.0", "--vfio",
		"/sys/bus/pci/devices/0000:01:00.0,guest-address=0000:00:05.0", "--vfio",
		"0000:02:00.0,iommu=off", "k"));
	assert_string_equal(config.nets.items[0].tap, "t");
	assert_string_equal(config.nets.items[0].mac, "2e:89:a8:e4:bf:95");
	assert_string_equal(config.nets.items[1].ip, "10.0.0.1");
	assert_string_equal(config.nets.items[1].mask, "255.255.255.0");
	assert_false(config.nets.items[0].vhost_user);
	assert_int_equal(config.devices.items[0].at.pci_device_id, 5);
	assert_false(config.devices.items[1].at.iommu);
	assert_true(config.devices.items[1].fd == CONFIG_NO_FD);
	config_fini(&config);
}

static void ports_are_one_of_each_hardware(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--serial", "type=file,path=log,num=1,earlycon", "--serial",
		"type=stdout,hardware=virtio-console,console,stdin", "k"));
	assert_int_equal(config.serial.mode, CONSOLE_FILE);
	assert_string_equal(config.serial.file, "log");
	assert_int_equal(config.console.mode, CONSOLE_TTY);
	assert_string_equal(config.payload.cmdline, "console=hvc0 earlycon=uart8250,io,0x3f8");
	config_fini(&config);
	accept_args(&config, ARGS("--serial", "type=sink", "k"));
	assert_int_equal(config.serial.mode, CONSOLE_NULL);
	assert_int_equal(config.console.mode, CONSOLE_OFF);
	config_fini(&config);
	accept_args(&config, ARGS("--serial", "hardware=virtio-console,type=stdout", "k"));
	assert_int_equal(config.serial.mode, CONSOLE_NULL); /* the terminal is taken */
	config_fini(&config);
	accept_args(&config, ARGS("--console", "tty", "k"));
	assert_int_equal(config.console.mode, CONSOLE_TTY);
	assert_int_equal(config.serial.mode, CONSOLE_NULL);
	config_fini(&config);
}

static void the_other_options_may_stand_beside_them(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--initrd", "i", "-c", "2", "--memory", "size=1G,prefault=on",
		"--platform", "num_pci_segments=2", "--rng", "src=/dev/urandom", "-vv", "--user-device",
		"socket=s", "bzImage", "--disable-sandbox", "--no-balloon"));
	assert_string_equal(config.payload.kernel, "bzImage"); /* no second --user-device */
	assert_string_equal(config.payload.initramfs, "i");
	assert_int_equal(config.cpus.boot, 2);
	assert_true(config.memory.size == GIB && config.memory.prefault);
	assert_int_equal(config.platform.num_pci_segments, 2);
	assert_int_equal(config.user_devices.nr, 1);
	assert_int_equal(config.verbosity, 2);
	assert_int_equal(config.seccomp, SECCOMP_OFF);
	config_fini(&config);
	accept_args(&config, ARGS("--seccomp-log-failures", "--cpus=num-cores=3", "-m=64", "-pa=b",
		"--cmdline", "c", "k"));
	assert_int_equal(config.seccomp, SECCOMP_LOG);
	assert_int_equal(config.cpus.boot, 3);
	assert_int_equal(config.memory.size, 64 * MIB);
	assert_string_equal(config.payload.cmdline, "c a=b");
	config_fini(&config);
	accept_args(&config, ARGS("--firmware", "f"));
	assert_null(config.payload.cmdline);
	config_fini(&config);
}

static void what_does_not_hold_together_is_refused(void **state)
{
	refuse_args("nothing to boot: expected a kernel", ARGS("-m", "64"));
	refuse_args("\"b\": expected an option, the kernel is given already", ARGS("a", "b"));
	refuse_args("--params: expected a kernel beside it, got --firmware",
		ARGS("--firmware", "f", "-p", "x"));
	refuse_args("--memory: expected no --mem beside it", ARGS("-m", "5", "--memory", "5M", "k"));
	refuse_args("--disk: serial: expected at most 20 bytes, got 21 (here: --block)",
		ARGS("--block", "a,id=123456789012345678901", "k"));
	refuse_args("--block: root: expected one root, got two", ARGS("-r", "a", "-r", "b", "k"));
	refuse_args("--no-shutdown: expected --api-socket beside it, or nobody could end outboard",
		ARGS("--no-shutdown", "k"));
}

static void a_root_beyond_the_letters_is_refused(void **state)
{
	const char *arguments[60] = { "k" };
	size_t nr = 1;
	char paths[28][8];

	for (size_t i = 0; i < 26; i++) {
		snprintf(paths[i], sizeof(paths[i]), "d%zu", i);
		arguments[nr++] = "-b";
		arguments[nr++] = paths[i];
	}
	arguments[nr++] = "-r";
	arguments[nr++] = "r";
	refuse_args("--block: root: expected it among the first 26 disks", arguments);
}

/* --- texts --- */

static char *printed(void (*print)(FILE *out))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	print(out);
	fclose(out);
	return text;
}

static bool says(const char *text, const char *format, const char *word)
{
	char wanted[200];

	snprintf(wanted, sizeof(wanted), format, word);
	return strstr(text, wanted) != NULL;
}

static void help_lists_everything_in_100_columns(void **state)
{
	FREE_AUTO char *help = printed(run_print_help);
	size_t column = 0;

	for (const char *c = help; *c; c++) {
		column = *c == '\n' ? 0 : column + 1;
		assert_true(column <= 100);
	}
	for_each_row (o, run_table) {
		assert_true(says(help, "--%s", o->name));
		for_each_field (f, o)
			if (!f->refused && takes_fields(o) && !o->like)
				assert_true(says(help, f->flag ? "      %s[=" : "      %s=", f->name));
	}
}

static void the_manual_page_describes_every_option_and_field(void **state)
{
	static char page[100000];
	char path[1000];
	FILE *file;
	size_t len;

	if (!getenv("OUTBOARD_DOC"))
		fail_msg("OUTBOARD_DOC is not set: run this by meson test");
	snprintf(path, sizeof(path), "%s/outboard-run.1.scd", getenv("OUTBOARD_DOC"));
	file = fopen(path, "r");
	assert_non_null(file);
	len = fread(page, 1, sizeof(page) - 1, file);
	fclose(file);
	page[len] = '\0';
	for_each_row (o, run_table) {
		if (!says(page, "*--%s*", o->name))
			fail_msg("outboard-run.1 does not mention --%s", o->name);
		/* outboard.1 has the fields of an option that is the same there */
		for_each_field (f, o)
			if (!f->refused && takes_fields(o) &&
				!(o->of && option_find(o->of)->fields == o->fields) &&
				!says(page, "*%s*", f->name))
				fail_msg("outboard-run.1: --%s does not mention *%s*", o->name, f->name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_of_the_table_is_sound),
		cmocka_unit_test(letters_are_unique),
		cmocka_unit_test(nothing_given_is_what_crosvm_gives),
		cmocka_unit_test(the_guide_s_device_vm_is_understood),
		cmocka_unit_test(the_guide_s_sibling_is_understood),
		cmocka_unit_test(every_kind_of_back_end_has_its_option),
		cmocka_unit_test(disks_come_in_five_words),
		cmocka_unit_test(networks_and_host_devices_are_understood),
		cmocka_unit_test(ports_are_one_of_each_hardware),
		cmocka_unit_test(the_other_options_may_stand_beside_them),
		cmocka_unit_test(what_does_not_hold_together_is_refused),
		cmocka_unit_test(a_root_beyond_the_letters_is_refused),
		cmocka_unit_test(help_lists_everything_in_100_columns),
		cmocka_unit_test(the_manual_page_describes_every_option_and_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
