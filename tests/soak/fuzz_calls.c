/* SPDX-License-Identifier: MIT
 *
 * fuzz_calls.c: libFuzzer chooses the calls.
 *
 * Each input is a program for a small machine: an instruction is four bytes, which call, which slot,
 * and a size.  The machine knows what each slot holds and checks content, alignment and size as it
 * goes, and the allocator's invariants at the end, where all is freed.  Rerun an input by naming its
 * file:
 *
 *   build/fuzz/tests/soak/fuzz_calls FILE
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "page.h"
#include "quarry.h"
#include "slab.h"

enum { SLOTS = 64, HEAPS = 2, CACHES = 2, OBJECT_BYTES = 200, EDGE = 4096 };
#define LIMIT_FLOOR ((size_t)1 << 20)

enum owner { NOBODY, PLAIN, ALIGNED, HEAP, OBJECT };

struct slot {
    unsigned char *block;
    size_t size, alignment;
    enum owner owner;
    unsigned which;      /* heap or cache */
    unsigned char value; /* what fills it */
};

static struct {
    struct slot slots[SLOTS];
    struct quarry_heap *heaps[HEAPS];
    struct quarry_cache *caches[CACHES];
    bool limited;
} machine;

#define check(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

__attribute__((noreturn)) static void fail(const char *what, int line) {
    fprintf(stderr, "fuzz_calls.c:%d: does not hold: %s (errno %d)\n", line, what, errno);
    abort();
}

/* ---- Content ------------------------------------------------------------------------------------ */

static bool holds(const unsigned char *bytes, size_t count, unsigned char value) {
    return count == 0 || (bytes[0] == value && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* The first and the last bytes: large blocks need not be resident as a whole. */
static size_t edge(size_t size) {
    return size < EDGE ? size : EDGE;
}

static void fill(struct slot *slot) {
    memset(slot->block, slot->value, edge(slot->size));
    memset(slot->block + slot->size - edge(slot->size), slot->value, edge(slot->size));
}

static void check_content(const struct slot *slot, size_t size) {
    size_t first = edge(slot->size) < size ? edge(slot->size) : size;
    check(holds(slot->block, first, slot->value));
    if (size == slot->size)
        check(holds(slot->block + size - edge(size), edge(size), slot->value));
}

/* ---- Calls -------------------------------------------------------------------------------------- */

/* 0 to 64 MiB, small sizes more often: five bits of magnitude, eleven of the size in it. */
static size_t size_of(uint16_t code) {
    size_t magnitude = code >> 11;
    size_t part = code & 0x7ff;
    return magnitude < 2 ? part : (part + 2048) << (magnitude - 2) >> 13;
}

static void keep(struct slot *slot, void *block, size_t size, size_t alignment, enum owner owner) {
    if (block == NULL) {
        check(machine.limited && errno == ENOMEM);
        return;
    }
    slot->block = block;
    slot->size = size;
    slot->alignment = alignment;
    slot->owner = owner;
    check(((uintptr_t)block & (alignment - 1)) == 0);
    if (owner == PLAIN || owner == ALIGNED)
        check(quarry_malloc_usable_size(block) >= size);
    fill(slot);
}

static void release(struct slot *slot, unsigned way) {
    if (slot->owner == NOBODY)
        return;
    check_content(slot, slot->size);
    errno = 77;
    if (slot->owner == HEAP)
        quarry_heap_free(machine.heaps[slot->which], slot->block);
    else if (slot->owner == OBJECT)
        quarry_cache_free(machine.caches[slot->which], slot->block);
    else if (slot->owner == ALIGNED && way % 2)
        quarry_free_aligned_sized(slot->block, slot->alignment, slot->size);
    else if (slot->owner == PLAIN && way % 2)
        quarry_free_sized(slot->block, slot->size);
    else
        quarry_free(slot->block);
    check(slot->owner == HEAP || slot->owner == OBJECT || errno == 77);
    slot->owner = NOBODY;
}

static void allocate(struct slot *slot, unsigned way, size_t size) {
    size_t alignment = (size_t)16 << way % 10;
    void *block = NULL;
    release(slot, way);
    errno = 0;
    switch (way % 4) {
    case 0:
        block = quarry_calloc(1, size);
        check(block == NULL || (holds(block, edge(size), 0) &&
                                holds((unsigned char *)block + size - edge(size), edge(size), 0)));
        keep(slot, block, size, 16, PLAIN);
        break;
    case 1:
        keep(slot, quarry_memalign(alignment, size), size, alignment, ALIGNED);
        break;
    default:
        keep(slot, quarry_malloc(size), size, 16, PLAIN);
    }
}

static void resize(struct slot *slot, size_t size) {
    if (slot->owner == NOBODY || slot->owner == OBJECT || size == 0)
        return;
    check_content(slot, slot->size);
    struct slot old = *slot;
    errno = 0;
    void *block = old.owner == HEAP ? quarry_heap_realloc(machine.heaps[old.which], old.block, size)
                                    : quarry_realloc(old.block, size);
    if (block == NULL) {
        check(machine.limited && errno == ENOMEM);
        check_content(slot, slot->size);
        return;
    }
    size_t kept = size < old.size ? size : old.size;
    old.block = block;
    check_content(&old, kept == old.size ? old.size : kept);
    keep(slot, block, size, 16, old.owner == HEAP ? HEAP : PLAIN);
}

static void allocate_owned(struct slot *slot, unsigned way, size_t size) {
    release(slot, way);
    unsigned which = slot->which = way / 2 % 2;
    errno = 0;
    if (way % 2 && machine.caches[which] != NULL)
        keep(slot, quarry_cache_alloc(machine.caches[which]), OBJECT_BYTES << which, 16, OBJECT);
    else if (way % 2 == 0 && machine.heaps[which] != NULL)
        keep(slot, quarry_heap_malloc(machine.heaps[which], size), size, 16, HEAP);
}

/* Its blocks go with it, unchecked by free; their content must still have held. */
static void renew_heap(unsigned which) {
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *slot = &machine.slots[i];
        if (slot->owner == HEAP && slot->which == which) {
            check_content(slot, slot->size);
            slot->owner = NOBODY;
        }
    }
    quarry_heap_destroy(machine.heaps[which]);
    machine.heaps[which] = quarry_heap_create();
}

static void set_limit(size_t bytes) {
    machine.limited = bytes != 0;
    quarry_set_limit(bytes);
}

static void change_settings(unsigned way, size_t size) {
    static const int thresholds[] = {-1, 0, 1 << 16, 1 << 20};
    struct quarry_stats stats;
    switch (way % 8) {
    case 0:
        quarry_malloc_trim(size & 0xffff);
        break;
    case 1:
        check(quarry_mallopt(M_TRIM_THRESHOLD, thresholds[size % 4]) == 1);
        break;
    case 2:
        check(quarry_mallopt(M_MMAP_THRESHOLD, 1 << (15 + size % 10)) == 1);
        break;
    case 3:
        check(quarry_mallopt(M_MXFAST, (int)(size % 161)) == 1);
        break;
    case 4:
        set_limit(size % 3 ? LIMIT_FLOOR + size : 0);
        break;
    case 5:
        renew_heap(size % HEAPS);
        break;
    case 6:
        if (machine.caches[size % CACHES] != NULL)
            quarry_cache_reap(machine.caches[size % CACHES]);
        break;
    default:
        check(quarry_stats(&stats, sizeof stats) == sizeof stats);
        check(stats.live_bytes + stats.cached_bytes + stats.free_object_bytes + stats.dirty_bytes +
                  stats.clean_bytes ==
              stats.heap_bytes);
    }
}

/* ---- One input ---------------------------------------------------------------------------------- */

static void begin(void) {
    set_limit(0);
    quarry_mallopt(M_TRIM_THRESHOLD, 1 << 17);
    quarry_mallopt(M_MMAP_THRESHOLD, 1 << 17);
    quarry_mallopt(M_MXFAST, 128);
    for (unsigned i = 0; i < CACHES; i++)
        machine.caches[i] =
            quarry_cache_create("fuzz", (size_t)OBJECT_BYTES << i, 0, NULL, NULL, NULL);
    for (unsigned i = 0; i < HEAPS; i++)
        machine.heaps[i] = quarry_heap_create();
}

static void end(void) {
    for (unsigned i = 0; i < SLOTS; i++)
        release(&machine.slots[i], i);
    for (unsigned i = 0; i < CACHES; i++)
        check(machine.caches[i] == NULL || quarry_cache_destroy(machine.caches[i]) == 0);
    for (unsigned i = 0; i < HEAPS; i++)
        quarry_heap_destroy(machine.heaps[i]);
    check(*page_verify() == '\0');
    check(*slab_verify() == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count) {
    begin();
    for (; count >= 4; data += 4, count -= 4) {
        struct slot *slot = &machine.slots[data[1] % SLOTS];
        size_t size = size_of((uint16_t)(data[2] | data[3] << 8));
        unsigned way = data[0] >> 3;
        slot->value = slot->owner == NOBODY ? data[0] ^ data[2] : slot->value;
        if ((data[0] & 7) < 2)
            allocate(slot, way, size);
        else if ((data[0] & 7) < 4)
            release(slot, way);
        else if ((data[0] & 7) == 4)
            resize(slot, size);
        else if ((data[0] & 7) < 7)
            allocate_owned(slot, way, size);
        else
            change_settings(way, size);
    }
    end();
    return 0;
}
