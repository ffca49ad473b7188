/*
 * api.h - the REST API: endpoints under /api/v1/, over HTTP on a UNIX socket
 *
 * Endpoints are rows of a table: name, method, states of the VM in which it is allowed, function.
 * Answers: 200 with a JSON object, 204 without; else a JSON array with one text. 400 the body is
 * wrong; 404 no such endpoint, or no VM; 405 not with this method, or not in this state; 409 taken
 * already; 500 it was tried and failed; 501 known elsewhere, not here.
 *
 * Threads: loop thread.
 */
#ifndef CONTROL_API_H
#define CONTROL_API_H

#include "base/loop.h"
#include "control/vmm.h"

struct api;

/* Serve on a listening socket. Takes listen_fd, also on failure; vmm and loop are borrowed. Gives
 * *out. 0 or -errno. */
int api_new(struct vmm *vmm, struct loop *loop, int listen_fd, struct api **out);
/* Not from inside a request. NULL is fine. */
void api_free(struct api *api);

/* Read no more; done(arg) when the answers given so far are out. */
void api_finish(struct api *api, void (*done)(void *arg), void *arg);

#endif
