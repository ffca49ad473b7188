/*
 * fuzz_api.c - what comes in at --api-socket, under libFuzzer: HTTP with JSON bodies
 *
 * The input is what a client sends. Its first byte says in how many pieces, with how many
 * descriptors beside the first, and whether the client leaves at once. A body is read as a
 * configuration. What must hold: no crash, no leak, no descriptor kept; a refusal has a text, of
 * one line; a configuration that was accepted is written and read again as the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/config_json.h"
#include "control/http.h"
#include "control/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct loop *loop;
static struct http_server *server;
static char path[64];
static struct loop_idle idle;

static void require(bool holds)
{
	if (!holds)
		abort();
}

static json_t *written(const struct vm_config *config)
{
	json_t *json;

	require(!config_to_json(config, &json));
	return json;
}

static void read_again(const struct vm_config *config)
{
	json_t *first = written(config), *second;
	struct vm_config again;
	struct err err = { 0 };

	require(!config_init(&again));
	require(!config_from_json(first, &again, &err));
	require(!options_check(&again, &err));
	second = written(&again);
	require(json_equal(first, second));
	json_decref(first);
	json_decref(second);
	config_fini(&again);
}

static void on_request(void *arg, struct http_request *req)
{
	struct vm_config config;
	struct err err = { 0 };
	json_t *json = NULL;
	int rc;

	require(req->method && req->path && !req->body[req->body_len]);
	require(!config_init(&config));
	rc = json_parse(req->body, req->body_len, &json, &err);
	if (!rc)
		rc = config_from_json(json, &config, &err);
	if (!rc)
		rc = options_check(&config, &err);
	json_decref(json);
	require(rc <= 0 && (!rc || (err.text[0] && !strchr(err.text, '\n'))));
	if (!rc)
		read_again(&config);
	config_fini(&config);
	http_reply(req, rc ? 400 : 200, "text/plain", err.text, strlen(err.text));
}

static bool nothing_to_do(struct loop_idle *unused)
{
	loop_quit(loop, 0);
	return true;
}

/* Until nobody has anything to do any more. */
static void serve(void)
{
	loop_idle_set(loop, &idle, nothing_to_do);
	loop_run(loop);
	loop_idle_del(loop, &idle);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct http_limits limits = { .max_head = 2000, .max_body = 6000 };
	int fd;

	snprintf(path, sizeof(path), "/tmp/fuzz-api-%d", getpid());
	fd = sock_listen(path, 4, NULL);
	require(fd >= 0 && !loop_new(&loop));
	require(!http_server_new(loop, fd, &limits, on_request, NULL, &server));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fds[64], fds_before = fd_count(), nr_fds, pieces, client;
	size_t step;

	if (!size)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = STDERR_FILENO;
	pieces = 1 + (data[0] & 3);
	nr_fds = data[0] & 4 ? 1 + data[0] / 8 : 0;
	client = sock_connect(path, NULL);
	require(client >= 0);
	step = MAX((size - 1) / (size_t)pieces, (size_t)1);
	for (size_t at = 1; at < size; at += step) {
		struct iovec iov = { (void *)(data + at), MIN(step, size - at) };

		/* The server may have hung up. */
		sock_send(client, &iov, 1, fds, at == 1 ? nr_fds : 0);
		if (data[0] < 0x80)
			serve();
	}
	close(client);
	serve();
	require(fd_count() == fds_before);
	return 0;
}
