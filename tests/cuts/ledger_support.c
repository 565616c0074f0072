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

static void enter(unsigned slot, void *address, size_t size) {
    struct block *block = &ledger[slot];
    must(address != NULL);
    must(!ledger_live(slot));
    block->address = address;
    block->size = size;
    block->seed += LEDGER_SLOTS + slot;
    pattern_fill(address, size, block->seed);
    atomic_store_explicit(&block->live, true, memory_order_release);
}

static void check(const struct block *block) {
    must(pattern_intact(block->address, block->size, block->seed, block->size));
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
    must(pattern_intact(moved, block->size, block->seed, kept));
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
