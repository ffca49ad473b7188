/*
 * kick.h - signal an eventfd that a peer gave us, without being held up by it
 *
 * A write to an eventfd waits when its counter is full and it is not O_NONBLOCK. The peer
 * shares the counter and the flag, so it can arrange for both after we looked: neither a poll
 * before the write nor a look at the flags is safe. Setting O_NONBLOCK ourselves would change the
 * flag under a peer that reads in blocking mode. So the write is a plain one, and a timer of the
 * calling thread breaks it off if it ever waits. The timer is armed once for all kicks of
 * the next 20 ms; the usual kick is one system call.
 */
#ifndef BASE_KICK_H
#define BASE_KICK_H

/*
 * Add 1 to the eventfd. A full counter of a non-blocking one counts as signalled. 0;
 * -ETIMEDOUT: it is full and blocking, so its owner plays foul; or -errno. At most 20 ms late, any
 * thread. Uses SIGRTMIN + 1.
 */
int kick(int eventfd);

#endif
