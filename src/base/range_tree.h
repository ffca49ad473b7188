/*
 * range_tree.h - ranges of addresses that do not overlap, found by address
 *
 * A range is given by its first and last address, so that one may reach up to 2^64 - 1. Nodes are
 * the caller's and hold what belongs to the range (container_of). All operations take O(log n) on
 * average, whatever order they come in.
 *
 * Threads: none of its own; the caller's lock.
 */
#ifndef BASE_RANGE_TREE_H
#define BASE_RANGE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range_node {
	uint64_t first, last;
	/* the tree's */
	struct range_node *left, *right;
	uint64_t weight;
};

/* A zeroed one is empty. */
struct range_tree {
	struct range_node *root;
	size_t nr;
	uint64_t random;
};

/* first and last are set, first <= last. Borrows n until it is removed. False: it overlaps another
 * one. */
bool range_tree_insert(struct range_tree *t, struct range_node *n);
/* n is in the tree. */
void range_tree_remove(struct range_tree *t, struct range_node *n);
/* The lowest one that shares an address with [first, last], or NULL. */
struct range_node *range_tree_first(const struct range_tree *t, uint64_t first, uint64_t last);
/* The next higher one, or NULL. n may have been removed. */
struct range_node *range_tree_next(const struct range_tree *t, const struct range_node *n);

/* The one that holds an address, or NULL. */
static inline struct range_node *range_tree_find(const struct range_tree *t, uint64_t at)
{
	return range_tree_first(t, at, at);
}

#endif
