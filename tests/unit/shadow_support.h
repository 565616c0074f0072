/* SPDX-License-Identifier: MIT
 *
 * shadow_support.h: what the fake operating system knows of its address space: who owns which
 * addresses, and which of them hold blocks that the test regards as live.
 *
 * What must not happen (a call that hits memory that is not the caller's, a block handed out twice)
 * is recorded, refused, and found by the test with shadow_violation().
 */
#ifndef QUARRY_TEST_SHADOW_H
#define QUARRY_TEST_SHADOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum owner {
    OWNER_NONE,
    OWNER_BREAK,   /* below the break, obtained by the allocator */
    OWNER_MAP,     /* mapped by the allocator */
    OWNER_FOREIGN, /* somebody else's */
};

void shadow_set(uintptr_t start, uintptr_t end, enum owner owner);
enum owner shadow_at(uintptr_t address);

/* True if every byte of the range belongs to this owner / to the allocator. */
bool shadow_all(uintptr_t start, uintptr_t end, enum owner owner);
bool shadow_ours(uintptr_t start, uintptr_t end);

/* Start of the highest gap of so many bytes within [low, high), at a multiple of align; 0 if none. */
uintptr_t shadow_gap(uintptr_t low, uintptr_t high, size_t bytes, size_t align);

/* Bytes that belong to an owner. */
size_t shadow_bytes(enum owner owner);

/* Live blocks.  Adding one that overlaps another, or memory that is not the allocator's, is a
 * violation, and so is the removal of one that was not added. */
void shadow_live_add(const void *block, size_t bytes);
void shadow_live_remove(const void *block);
bool shadow_live_in(uintptr_t start, uintptr_t end);

/* Records a violation; the first one is kept. */
void shadow_violate(const char *what, uintptr_t start, uintptr_t end);

/* The first violation so far, or "". */
const char *shadow_violation(void);
void shadow_forget_violation(void);

#endif
