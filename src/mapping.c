/* SPDX-License-Identifier: MIT
 *
 * mapping: large blocks, each a mapping of its own, found through a hash table.
 *
 * LAYOUT   One table of {address, bytes}, open addressing with linear probing, replaced by a larger
 *          copy when three quarters of its slots were used.  address 0: never used, GONE: was used.
 *          With guards (harden.c):  | pages ...  [ block ]| inaccessible |
 *          The entry has the block's address and size as the program knows them; bytes are counted in pages.
 *
 * INVARIANTS
 *   INV-MAPPING-1  An entry's size is stored before its address, and it is forgotten before it is
 *                  unmapped: a cut leaks a mapping and never leaves an entry without one.
 *
 * CROWDED  The kernel bounds the mappings of a process (vm.max_map_count).  At the bound it refuses to
 *          unmap what lies inside a larger mapping, and it is the first to say so; one mapping more, and
 *          the break does not grow any longer either.  So from the first refusal on until a quarter of
 *          the blocks is gone, new blocks are for the heap (mapping_crowded); the addresses of a block
 *          that could not be unmapped stay taken, its memory goes.
 *
 * LOCKING  One lock for table and counters; no system call is made under it but the one that maps a
 *          larger table.
 *
 * WHY NOT  A header in front of the block: it would cost a page for page-aligned blocks.
 */
#include "mapping.h"

#include "lock.h"
#include "meta.h"
#include "os.h"
#include "sizeclass.h"

#define GONE ((uintptr_t)1)

enum { FIRST_SLOTS = 64 };

static struct lock lock = LOCK_INITIALISER(LOCK_MAPPING);
struct mapping_table *mapping_table; /* guarded by lock, as all below */
static size_t moving;                /* blocks that are out of the table and will come back */
static struct mapping_counts counts;
static size_t crowded_above = SIZE_MAX; /* with more blocks no new one should be a mapping */
static size_t guard_bytes;              /* behind each block; the same for all */

void mapping_guard_all(void) {
    guard_bytes = os_page_bytes();
}

/* The pages that a block lies in, without its guard. */
static size_t pages_of(uintptr_t address, size_t bytes, uintptr_t *start) {
    *start = round_down(address, os_page_bytes());
    return round_up(address + bytes, os_page_bytes()) - *start;
}

static size_t table_bytes(size_t slots) {
    return sizeof(struct mapping_table) + slots * sizeof(struct mapping_entry);
}

static size_t hash(uintptr_t address) {
    return (size_t)((address >> PAGE_SHIFT) * 0x9e3779b97f4a7c15u >> 20);
}

static struct mapping_entry *find(uintptr_t address) {
    if (!mapping_table || address <= GONE) /* what an empty slot says is no block's address */
        return NULL;
    for (size_t i = hash(address);; i++) {
        struct mapping_entry *entry = &mapping_table->entry[i & (mapping_table->slots - 1)];
        if (entry->address == address)
            return entry;
        if (entry->address == 0)
            return NULL;
    }
}

static void put(struct mapping_table *into, uintptr_t address, size_t bytes) {
    size_t i = hash(address);
    while (into->entry[i & (into->slots - 1)].address > GONE)
        i++;
    struct mapping_entry *entry = &into->entry[i & (into->slots - 1)];
    if (entry->address == 0)
        into->used++;
    entry->bytes = bytes;
    STORE_RELEASE(entry->address, address);
}

/* A change that would have made one mapping two was refused. */
static SELDOM void note_refusal(void) {
    lock_take(&lock);
    STORE_RELAXED(crowded_above, counts.count - counts.count / 4);
    lock_drop(&lock);
}

static bool unmap(uintptr_t start, size_t bytes) {
    bool done = os_unmap((void *)start, bytes);
    if (UNLIKELY(!done))
        note_refusal();
    return done;
}

static bool seal(uintptr_t start, size_t bytes) {
    bool done = os_seal((void *)start, bytes);
    if (UNLIKELY(!done))
        note_refusal();
    return done;
}

bool mapping_crowded(void) {
    return LOAD_RELAXED(counts.count) > LOAD_RELAXED(crowded_above);
}

/* Makes sure that one more entry fits, beside those of the blocks that are moving. */
static bool reserve(void) {
    size_t entries = moving + 1;
    if (mapping_table && (mapping_table->used + entries) * 4 <= mapping_table->slots * 3)
        return true;
    size_t slots = FIRST_SLOTS;
    while (slots < 4 * (counts.count + entries))
        slots *= 2;
    struct mapping_table *larger = meta_take(table_bytes(slots));
    if (!larger)
        return false;
    larger->slots = slots;
    for (size_t i = 0; mapping_table && i < mapping_table->slots; i++)
        if (mapping_table->entry[i].address > GONE)
            put(larger, mapping_table->entry[i].address, mapping_table->entry[i].bytes);
    struct mapping_table *old = mapping_table;
    STORE_RELEASE(mapping_table, larger);
    if (old)
        meta_give(old, table_bytes(old->slots));
    return true;
}

static bool remember(uintptr_t address, size_t bytes, bool moved) {
    uintptr_t start;
    size_t held = pages_of(address, bytes, &start);
    lock_take(&lock);
    moving -= moved;
    bool possible = moved || reserve();
    if (possible) {
        put(mapping_table, address, bytes);
        if (counts.count <= crowded_above)
            STORE_RELAXED(crowded_above, SIZE_MAX);
        STORE_RELAXED(counts.count, counts.count + 1);
        STORE_RELAXED(counts.bytes, counts.bytes + held);
        counts.peak_count = max_size(counts.peak_count, counts.count);
        counts.peak_bytes = max_size(counts.peak_bytes, counts.bytes);
    }
    lock_drop(&lock);
    return possible;
}

/* Takes a block out of the table; returns its size, 0 if it was not there.  For one that may move a
 * slot is kept, so that it is not lost for want of a larger table; 0 also where there is none. */
static size_t forget(uintptr_t address, bool to_move) {
    uintptr_t start;
    size_t bytes = 0;
    lock_take(&lock);
    if (find(address) && (!to_move || reserve())) {
        struct mapping_entry *entry = find(address); /* it may be in a larger table now */
        moving += to_move;
        bytes = entry->bytes;
        STORE_RELEASE(entry->address, GONE);
        STORE_RELAXED(counts.count, counts.count - 1);
        STORE_RELAXED(counts.bytes, counts.bytes - pages_of(address, bytes, &start));
    }
    lock_drop(&lock);
    return bytes;
}

static uintptr_t map_aligned(size_t bytes, size_t align) {
    if (align <= os_page_bytes())
        return (uintptr_t)os_map(bytes);
    uintptr_t whole = (uintptr_t)os_map(bytes + align);
    if (!whole)
        return 0;
    uintptr_t start = round_up(whole, align), end = whole + bytes + align;
    if (start > whole)
        unmap(whole, start - whole);
    if (end > start + bytes)
        unmap(start + bytes, end - start - bytes);
    return start;
}

/* The place of a block whose end is at the guard if its alignment permits; 0, and unmapped, on failure. */
static uintptr_t guard(uintptr_t start, size_t whole, size_t bytes, size_t align) {
    uintptr_t end = start + whole - guard_bytes;
    if (seal(end, guard_bytes))
        return round_down(end - bytes, max_size(align, SIZE_GRAIN));
    unmap(start, whole);
    return 0;
}

void *mapping_take(size_t bytes, size_t align) {
    size_t pages = round_up(bytes, os_page_bytes()), whole = pages + guard_bytes;
    if (whole + align > PTRDIFF_MAX)
        return NULL;
    uintptr_t start = map_aligned(whole, align), address = start;
    if (start && guard_bytes)
        address = guard(start, whole, bytes, align);
    if (address && !remember(address, guard_bytes ? bytes : pages, false)) {
        unmap(start, whole);
        address = 0;
    }
    return (void *)address;
}

size_t mapping_bytes(const void *block) {
    lock_take(&lock);
    const struct mapping_entry *entry = find((uintptr_t)block);
    size_t bytes = entry ? entry->bytes : 0;
    lock_drop(&lock);
    return bytes;
}

bool mapping_seal(const void *block) {
    uintptr_t start;
    size_t bytes = mapping_bytes(block), pages = pages_of((uintptr_t)block, bytes, &start);
    return bytes && seal(start, pages);
}

size_t mapping_give(void *block) {
    uintptr_t start;
    size_t bytes = forget((uintptr_t)block, false);
    size_t pages = pages_of((uintptr_t)block, bytes, &start);
    if (bytes && !unmap(start, pages + guard_bytes))
        os_purge((void *)start, pages); /* out of mappings: the addresses stay, the memory goes */
    return bytes;
}

void *mapping_resize(void *block, size_t bytes) {
    bytes = round_up(bytes, os_page_bytes());
    size_t old = forget((uintptr_t)block, true);
    if (!old)
        return NULL;
    void *moved = os_remap(block, old, bytes, bytes > old); /* qemu moves what may move */
    remember((uintptr_t)(moved ? moved : block), moved ? bytes : old, true);
    return moved;
}

uintptr_t mapping_around(uintptr_t address, size_t *bytes) {
    uintptr_t found = 0;
    lock_take(&lock);
    for (size_t i = 0; mapping_table && i < mapping_table->slots && !found; i++) {
        struct mapping_entry entry = mapping_table->entry[i];
        if (entry.address > GONE && address - entry.address < entry.bytes) {
            *bytes = entry.bytes;
            found = entry.address;
        }
    }
    lock_drop(&lock);
    return found;
}

size_t mapping_copy(size_t *slot, struct mapping_entry *out, size_t max) {
    size_t count = 0;
    lock_take(&lock);
    for (; mapping_table && *slot < mapping_table->slots && count < max; ++*slot)
        if (mapping_table->entry[*slot].address > GONE)
            out[count++] = mapping_table->entry[*slot];
    lock_drop(&lock);
    return count;
}

void mapping_count(struct mapping_counts *out) {
    lock_take(&lock);
    *out = counts;
    lock_drop(&lock);
}

size_t mapping_live(void) {
    return LOAD_RELAXED(counts.count);
}

size_t mapping_live_bytes(void) {
    return LOAD_RELAXED(counts.bytes);
}

void mapping_repair(void) {
    if (!lock_broken(&lock))
        return;
    uintptr_t start;
    counts.count = counts.bytes = 0;
    for (size_t i = 0; mapping_table && i < mapping_table->slots; i++)
        if (mapping_table->entry[i].address > GONE) {
            counts.count++;
            counts.bytes +=
                pages_of(mapping_table->entry[i].address, mapping_table->entry[i].bytes, &start);
        }
    lock_repair(&lock);
}
