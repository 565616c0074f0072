/* SPDX-License-Identifier: MIT
 *
 * meta: memory for tables.
 *
 * LAYOUT   chunks of META_CHUNK bytes from the kernel, linked through their first line for those who
 *          count them, cut behind it in multiples of a cache line; a block given back goes to the list of its size.
 * FAILURE  NULL where the kernel refuses.
 * SEE      The page map's regions and the class map are mapped by pagemap.c itself.
 */
#include "meta.h"

#include "os.h"

#include <string.h>

enum { META_SIZES = META_BLOCK_MAX / CACHE_LINE + 1 };

struct free_block {
    struct free_block *next;
};

static struct lock lock = LOCK_INITIALISER(LOCK_META);
static struct free_block *free_list[META_SIZES]; /* guarded by lock, as all below */
static char *chunk_next, *chunk_end;
struct meta_chunk *meta_chunk_list;
static bool reserved;
static size_t mapped_bytes;
size_t meta_large_total; /* changes without the lock, as mapped_bytes does */

static bool add_chunk(size_t bytes) {
    struct meta_chunk *chunk = os_map(bytes);
    if (!chunk)
        return false;
    chunk->next = meta_chunk_list;
    chunk->bytes = bytes;
    STORE_RELEASE(meta_chunk_list, chunk);
    chunk_next = (char *)chunk + CACHE_LINE;
    chunk_end = (char *)chunk + bytes;
    __atomic_fetch_add(&mapped_bytes, bytes, __ATOMIC_RELAXED);
    return true;
}

static void *cut_from_chunk(size_t bytes, bool may_map) {
    if ((size_t)(chunk_end - chunk_next) < bytes && !(may_map && add_chunk(META_CHUNK)))
        return NULL;
    void *block = chunk_next;
    chunk_next += bytes;
    return block;
}

static void count_large(size_t bytes) {
    __atomic_fetch_add(&mapped_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&meta_large_total, bytes, __ATOMIC_RELAXED);
}

static void *take_small(size_t bytes, bool may_map) {
    bytes = round_up(bytes, CACHE_LINE);
    lock_take(&lock);
    struct free_block *block = free_list[bytes / CACHE_LINE];
    if (block) {
        free_list[bytes / CACHE_LINE] = block->next;
        lock_drop(&lock);
        memset(block, 0, bytes);
        return block;
    }
    void *fresh = cut_from_chunk(bytes, may_map);
    lock_drop(&lock);
    return fresh;
}

void *meta_take(size_t bytes) {
    if (bytes > META_BLOCK_MAX) {
        void *block = os_map(round_up(bytes, os_page_bytes()));
        if (block)
            count_large(round_up(bytes, os_page_bytes()));
        return block;
    }
    return take_small(bytes, true);
}

void *meta_take_ready(size_t bytes) {
    return take_small(bytes, !LOAD_RELAXED(reserved));
}

/* What is left of the chunk in use is lost.  In the others lie stacks that nobody has filled yet. */
void meta_reserve(size_t bytes) {
    lock_take(&lock);
    if (!reserved && add_chunk(round_up(bytes, META_CHUNK))) {
        for (struct meta_chunk *chunk = meta_chunk_list; chunk; chunk = chunk->next)
            os_make_resident(chunk, chunk->bytes);
        STORE_RELAXED(reserved, true);
    }
    lock_drop(&lock);
}

void meta_end_reserve(void) {
    STORE_RELAXED(reserved, false);
}

void meta_give(void *block, size_t bytes) {
    if (bytes > META_BLOCK_MAX) {
        count_large(0 - round_up(bytes, os_page_bytes()));
        os_unmap(block, round_up(bytes, os_page_bytes()));
        return;
    }
    bytes = round_up(bytes, CACHE_LINE);
    struct free_block *entry = block;
    lock_take(&lock);
    entry->next = free_list[bytes / CACHE_LINE];
    free_list[bytes / CACHE_LINE] = entry;
    lock_drop(&lock);
}

size_t meta_mapped_bytes(void) {
    return LOAD_RELAXED(mapped_bytes);
}

const struct meta_chunk *meta_chunks(void) {
    return LOAD_ACQUIRE(meta_chunk_list);
}

size_t meta_large_bytes(void) {
    return LOAD_RELAXED(meta_large_total);
}

void meta_repair(void) {
    if (!lock_broken(&lock))
        return;
    memset(free_list, 0, sizeof free_list);
    chunk_next = chunk_end = NULL;
    lock_repair(&lock);
}
