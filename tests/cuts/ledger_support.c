/* SPDX-License-Identifier: MIT */
#include "ledger_support.h"

#include <stdatomic.h>

static struct block {
    void *address;
    size_t size;
    uint64_t seed;
    atomic_bool live;
} ledger[LEDGER_SLOTS];

bool ledger_live(unsigned slot) {
    return atomic_load_explicit(&ledger[slot].live, memory_order_acquire);
}

void *ledger_address(unsigned slot) {
    return ledger[slot].address;
}

/* The offset of the next word to fill and check: all of them in small blocks; beyond, one in each 64
 * bytes, and after 64 KiB one in each page.  Blocks that large begin at multiples of 64, so that two
 * that overlap have such words in common. */
static size_t next_word(size_t at) {
    return at + (at < 4096 ? 8 : at < 65536 ? 64 : 4096);
}

static uint64_t word_at(uint64_t seed, size_t at) {
    return seed ^ at * 0x9e3779b97f4a7c15u;
}

static void fill(void *address, size_t size, uint64_t seed) {
    unsigned char *bytes = address;
    for (size_t at = 0; at + 8 <= size; at = next_word(at))
        *(uint64_t *)(bytes + at) = word_at(seed, at);
    for (size_t at = size & ~(size_t)7; at < size; at++)
        bytes[at] = (unsigned char)seed;
}

/* Whether what is left of a block of size bytes that was resized, or not, holds. */
static bool holds(const void *address, size_t size, size_t left, uint64_t seed) {
    const unsigned char *bytes = address;
    for (size_t at = 0; at + 8 <= left; at = next_word(at))
        if (*(const uint64_t *)(bytes + at) != word_at(seed, at))
            return false;
    for (size_t at = size & ~(size_t)7; at < left; at++)
        if (bytes[at] != (unsigned char)seed)
            return false;
    return true;
}

static void enter(unsigned slot, void *address, size_t size) {
    struct block *block = &ledger[slot];
    must(address != NULL);
    must(!ledger_live(slot));
    block->address = address;
    block->size = size;
    block->seed += (uint64_t)LEDGER_SLOTS + slot;
    fill(address, size, block->seed);
    atomic_store_explicit(&block->live, true, memory_order_release);
}

static void check(const struct block *block) {
    must(holds(block->address, block->size, block->size, block->seed));
}

/* The block's address; it is not live from here on. */
static void *leave(unsigned slot) {
    struct block *block = &ledger[slot];
    must(ledger_live(slot));
    check(block);
    atomic_store_explicit(&block->live, false, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    return block->address;
}

void ledger_take(unsigned slot, size_t size) {
    enter(slot, quarry_malloc(size), size);
}

void ledger_take_zero(unsigned slot, size_t size) {
    void *block = quarry_calloc(1, size);
    must(block != NULL && all_zero(block, size));
    enter(slot, block, size);
}

void ledger_take_aligned(unsigned slot, size_t align, size_t size) {
    void *block = quarry_memalign(align, size);
    must(block != NULL && is_aligned(block, align));
    enter(slot, block, size);
}

void ledger_resize(unsigned slot, size_t size) {
    struct block *block = &ledger[slot];
    size_t kept = size < block->size ? size : block->size;
    void *moved = quarry_realloc(leave(slot), size);
    must(moved != NULL);
    must(holds(moved, block->size, kept, block->seed));
    enter(slot, moved, size);
}

void ledger_give(unsigned slot) {
    quarry_free(leave(slot));
}

void ledger_take_many(unsigned first, unsigned count, size_t size) {
    for (unsigned i = 0; i < count; i++)
        ledger_take(first + i, size);
}

void ledger_give_many(unsigned first, unsigned count, unsigned step) {
    for (unsigned i = 0; i < count; i += step)
        ledger_give(first + i);
}

void ledger_give_live(unsigned first, unsigned end) {
    for (unsigned slot = first; slot < end; slot++)
        if (ledger_live(slot))
            ledger_give(slot);
}

void ledger_check(void) {
    for (unsigned slot = 0; slot < LEDGER_SLOTS; slot++) {
        if (!ledger_live(slot))
            continue;
        check(&ledger[slot]);
        must(quarry_malloc_usable_size(ledger[slot].address) >= ledger[slot].size);
    }
}
