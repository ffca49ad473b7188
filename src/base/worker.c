/*
 * worker.c - a queue of things to do, and the thread that does them
 *
 * Threads: the queue under a lock; who waits for its end, and is told, on the loop thread.
 */
#include "base/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

struct job {
	void (*fn)(void *arg);
	void *arg;
	struct job *next;
};

struct worker {
	struct loop *loop;
	char name[16];
	struct loop_work idle_work;
	void (*idle)(void *arg); /* loop thread */
	void *idle_arg;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct job *first, **end; /* the first one may be under way */
	pthread_t thread;
	bool has_thread, quit;
};

static void tell_idle(struct loop_work *work)
{
	struct worker *w = container_of(work, struct worker, idle_work);
	void (*idle)(void *arg) = w->idle;

	if (!idle || worker_busy(w))
		return;
	w->idle = NULL;
	idle(w->idle_arg);
}

/* The first job, which stays in the queue until it is done. NULL: the end. */
static struct job *next_job(struct worker *w)
{
	struct job *job;

	pthread_mutex_lock(&w->lock);
	while (!w->first && !w->quit)
		pthread_cond_wait(&w->changed, &w->lock);
	job = w->first;
	pthread_mutex_unlock(&w->lock);
	return job;
}

/* True: there is none left. */
static bool drop_job(struct worker *w, struct job *job)
{
	bool empty;

	pthread_mutex_lock(&w->lock);
	w->first = job->next;
	empty = !w->first;
	if (empty)
		w->end = &w->first;
	pthread_mutex_unlock(&w->lock);
	free(job);
	return empty;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct job *job;

	pthread_setname_np(pthread_self(), w->name);
	while ((job = next_job(w))) {
		job->fn(job->arg);
		if (drop_job(w, job))
			loop_post(w->loop, &w->idle_work, tell_idle);
	}
	return NULL;
}

/* Lock held. */
static int begin_thread(struct worker *w)
{
	sigset_t all, before;
	int rc;

	if (w->has_thread)
		return 0;
	/* Signals are the loop's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&w->thread, NULL, worker_thread, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	w->has_thread = !rc;
	return rc;
}

int worker_do(struct worker *w, void (*fn)(void *arg), void *arg)
{
	struct job *job = calloc(1, sizeof(*job));
	int rc;

	if (!job)
		return -ENOMEM;
	*job = (struct job){ fn, arg, NULL };
	pthread_mutex_lock(&w->lock);
	rc = begin_thread(w);
	if (!rc) {
		*w->end = job;
		w->end = &job->next;
		pthread_cond_signal(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	if (rc)
		free(job);
	return rc;
}

bool worker_busy(struct worker *w)
{
	bool busy;

	pthread_mutex_lock(&w->lock);
	busy = w->first;
	pthread_mutex_unlock(&w->lock);
	return busy;
}

void worker_when_idle(struct worker *w, void (*fn)(void *arg), void *arg)
{
	w->idle = fn;
	w->idle_arg = arg;
	if (fn && !worker_busy(w))
		loop_post(w->loop, &w->idle_work, tell_idle);
}

int worker_new(struct loop *loop, const char *name, struct worker **out)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->end = &w->first;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	*out = w;
	return 0;
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	if (w->has_thread)
		pthread_join(w->thread, NULL);
	loop_unpost(w->loop, &w->idle_work);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
