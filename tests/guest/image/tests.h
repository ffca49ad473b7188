/* tests.h - the tests, and what several of them need */
#ifndef GUEST_TESTS_H
#define GUEST_TESTS_H

struct test {
	const char *name;
	void (*run)(void);
};

void test_boot(void);

#endif
