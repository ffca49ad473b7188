/*
 * range_tree.c - a treap: a binary tree by address that is a heap by random weights
 *
 * The weights keep it shallow whatever order ranges come in; nobody outside can see or choose them.
 */
#include "base/range_tree.h"

#include <assert.h>

/* Marsaglia's xorshift64; seeded by where the tree lies. */
static uint64_t next_random(struct range_tree *t)
{
	uint64_t x = t->random ? t->random : (uint64_t)(uintptr_t)t | 1;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	t->random = x;
	return x;
}

struct range_node *range_tree_first(const struct range_tree *t, uint64_t first, uint64_t last)
{
	struct range_node *n = t->root, *best = NULL;

	while (n) {
		if (n->last >= first) {
			best = n;
			n = n->left;
		} else {
			n = n->right;
		}
	}
	return best && best->first <= last ? best : NULL;
}

struct range_node *range_tree_next(const struct range_tree *t, const struct range_node *n)
{
	return n->last == UINT64_MAX ? NULL : range_tree_first(t, n->last + 1, UINT64_MAX);
}

/* Cut a tree in two, below and above n, as its children. */
static void split(struct range_node *tree, struct range_node *n)
{
	struct range_node **low = &n->left, **high = &n->right;

	while (tree) {
		if (tree->first < n->first) {
			*low = tree;
			low = &tree->right;
			tree = tree->right;
		} else {
			*high = tree;
			high = &tree->left;
			tree = tree->left;
		}
	}
	*low = *high = NULL;
}

bool range_tree_insert(struct range_tree *t, struct range_node *n)
{
	struct range_node **at = &t->root;

	assert(n->first <= n->last);
	if (range_tree_first(t, n->first, n->last))
		return false;
	n->weight = next_random(t);
	while (*at && (*at)->weight >= n->weight)
		at = n->first < (*at)->first ? &(*at)->left : &(*at)->right;
	split(*at, n);
	*at = n;
	t->nr++;
	return true;
}

void range_tree_remove(struct range_tree *t, struct range_node *n)
{
	struct range_node **at = &t->root, *low = n->left, *high = n->right;

	while (*at != n) {
		assert(*at);
		at = n->first < (*at)->first ? &(*at)->left : &(*at)->right;
	}
	while (low && high) {
		if (low->weight >= high->weight) {
			*at = low;
			at = &low->right;
			low = low->right;
		} else {
			*at = high;
			at = &high->left;
			high = high->left;
		}
	}
	*at = low ? low : high;
	t->nr--;
}
