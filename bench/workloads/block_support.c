/* SPDX-License-Identifier: MIT
 *
 * block_support.c: blocks that know their content.
 *
 * The first word of a block holds its size (32 bits), a serial number (16) and a check of both
 * (16). The last 8 bytes and one word in each cache line follow from it: so each line is touched,
 * as a program would, and blocks that overlap destroy each other's words. With --verify every
 * byte is written and checked. The content does not depend on the address: it survives realloc.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

#define LINE 64
/* A look at the clock is 25 ns; once in so many calls it does not count. */
#define CALLS_PER_CLOCK 256

uint64_t mix64(uint64_t value) {
    value += 0x9e3779b97f4a7c15;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

static uint64_t next_random(struct worker *worker) {
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    return worker->random;
}

void draw_restart(struct worker *worker, uint64_t number) {
    worker->random = mix64(settings.seed * 1000003 + number) | 1;
    worker->serial = (uint32_t)(worker->random >> 32);
}

uint32_t draw_below(struct worker *worker, uint32_t bound) {
    return (uint32_t)((next_random(worker) >> 32) * bound >> 32);
}

size_t draw_size(struct worker *worker, size_t least, size_t most) {
    size_t doublings = 0;
    while (least << (doublings + 1) <= most) {
        doublings++;
    }
    size_t low = least << draw_below(worker, (uint32_t)doublings + 1);
    size_t high = 2 * low - 1 < most ? 2 * low - 1 : most;
    return low + draw_below(worker, (uint32_t)(high - low + 1));
}

static void count(struct worker *worker, int64_t bytes, int64_t blocks) {
    /* No other thread writes these, so a load and a store are enough. */
    int64_t live = atomic_load_explicit(&worker->live, memory_order_relaxed);
    int64_t many = atomic_load_explicit(&worker->live_many, memory_order_relaxed);
    atomic_store_explicit(&worker->live, live + bytes, memory_order_relaxed);
    atomic_store_explicit(&worker->live_many, many + blocks, memory_order_relaxed);
    worker->operations++;
    if (worker->until_clock-- == 0) {
        worker->until_clock = CALLS_PER_CLOCK;
        figures_sample();
    }
}

/* ---- Content --------------------------------------------------------------------------------- */

static uint64_t load_word(const unsigned char *at) {
    uint64_t word = 0;
    memcpy(&word, at, sizeof word);
    return word;
}

static void store_word(unsigned char *at, uint64_t word) {
    memcpy(at, &word, sizeof word);
}

static uint64_t first_word(size_t size, uint32_t serial) {
    uint64_t word = (uint64_t)size << 16 | (serial & 0xffff);
    return word << 16 | (mix64(word) & 0xffff);
}

static unsigned char filler(uint64_t first, size_t offset) {
    return (unsigned char)(first >> 16 ^ offset ^ offset >> 8);
}

static void stamp(struct worker *worker, unsigned char *block, size_t size) {
    uint64_t first = first_word(size, worker->serial++);
    store_word(block, first);
    if (settings.verify) {
        for (size_t at = sizeof first; at < size; at++) {
            block[at] = filler(first, at);
        }
    }
    for (size_t at = LINE; at + sizeof first <= size; at += LINE) {
        store_word(block + at, first + at);
    }
    if (size >= 2 * sizeof first) {
        store_word(block + size - sizeof first, ~first);
    }
}

static _Noreturn void lost(size_t size, size_t offset) {
    workload_fail("a block of %zu bytes has lost its content at byte %zu", size, offset);
}

/* Checks one byte of a block that is filled throughout. */
static void check_byte(const unsigned char *block, size_t size, uint64_t first, size_t at) {
    bool in_line_word = at >= LINE && at % LINE < sizeof first && at - at % LINE + 8 <= size;
    bool in_last_word = size >= 2 * sizeof first && at >= size - sizeof first;
    if (!in_line_word && !in_last_word && block[at] != filler(first, at)) {
        lost(size, at);
    }
}

/* Checks what is left of the content of a block of size bytes after `kept` of them were kept. */
static void check_content(const unsigned char *block, size_t size, size_t kept, bool all) {
    uint64_t first = load_word(block);
    size_t last_line = kept >= LINE + 8 ? (kept - 8) / LINE * LINE : 0;
    /* All lines, or one that differs from block to block. */
    size_t from = all || last_line == 0 ? LINE : LINE + first % (last_line / LINE) * LINE;
    bool has_last = size >= 2 * sizeof first;
    for (size_t at = from; at <= last_line; at += all ? LINE : last_line) {
        bool overwritten = has_last && at + 8 > size - 8;
        if (!overwritten && load_word(block + at) != first + at) {
            lost(size, at);
        }
    }
    if (has_last && kept == size && load_word(block + size - 8) != ~first) {
        lost(size, size - 8);
    }
    if (settings.verify) {
        for (size_t at = sizeof first; at < kept; at++) {
            check_byte(block, size, first, at);
        }
    }
}

size_t block_size(const void *block) {
    uint64_t first = load_word(block);
    if ((mix64(first >> 16) & 0xffff) != (first & 0xffff)) {
        workload_fail("a block has lost its first bytes: %016llx", (unsigned long long)first);
    }
    return first >> 32;
}

void block_check(const void *block) {
    size_t size = block_size(block);
    check_content(block, size, size, settings.verify);
}

/* ---- Calls of the allocator ------------------------------------------------------------------ */

static void require(const void *block, const char *function, size_t size) {
    if (block == NULL) {
        workload_fail("%s of %zu bytes: %s", function, size, strerror(errno));
    }
}

static void *adopt(struct worker *worker, void *block, size_t size) {
    stamp(worker, block, size);
    count(worker, (int64_t)size, 1);
    return block;
}

void *block_new(struct worker *worker, size_t size) {
    void *block = malloc(size);
    require(block, "malloc", size);
    return adopt(worker, block, size);
}

void *block_new_zeroed(struct worker *worker, size_t size) {
    unsigned char *block = calloc(1, size);
    require(block, "calloc", size);
    for (size_t at = 0; at < size; at += settings.verify ? 1 : LINE) {
        if (block[at] != 0) {
            workload_fail("calloc of %zu bytes: byte %zu is not zero", size, at);
        }
    }
    return adopt(worker, block, size);
}

void *block_new_aligned(struct worker *worker, size_t alignment, size_t size) {
    void *block = NULL;
    int error = posix_memalign(&block, alignment, size);
    if (error != 0) {
        workload_fail("posix_memalign of %zu bytes: %s", size, strerror(error));
    }
    if ((uintptr_t)block % alignment != 0) {
        workload_fail("posix_memalign of %zu bytes is not aligned to %zu", size, alignment);
    }
    return adopt(worker, block, size);
}

void *block_resize(struct worker *worker, void *block, size_t size) {
    size_t before = block_size(block);
    void *moved = realloc(block, size);
    require(moved, "realloc", size);
    check_content(moved, before, before < size ? before : size, settings.verify);
    stamp(worker, moved, size);
    count(worker, (int64_t)size - (int64_t)before, 0);
    return moved;
}

void block_drop(struct worker *worker, void *block) {
    if (block == NULL) {
        return;
    }
    size_t size = block_size(block);
    check_content(block, size, size, settings.verify);
    worker->checksum += mix64(load_word(block));
    worker->verified++;
    free(block);
    count(worker, -(int64_t)size, -1);
}
