/* SPDX-License-Identifier: MIT
 *
 * resize: realloc, and what a size that the program gives back may be.
 *
 * PURPOSE  Leave a block where it is as long as it is a good home; else let it grow or shrink in place, or by
 *          mremap; move it last, and where it can be seen that it will grow again, to a place with room.
 *
 * RULE     free_sized accepts just the sizes for which realloc would have left the block in place.
 */
#include "cache.h"
#include "harden.h"
#include "heap_internal.h"
#include "limit.h"
#include "mapping.h"
#include "os.h"
#include "page.h"
#include "report.h"

#include <string.h>

enum {
    GROWS_AGAIN = 4, /* a step below this part of the old length */
    GROWTHS_KNOWN = 256,
    KEPT_PART = 8, /* of an object that may be left over */
};

uint8_t heap_serves_aligned[BIN_COUNT];

#define KEEP_ANYWAY ((size_t)128) /* a block this small is not worth moving to shrink it */

/* ---- resizing ------------------------------------------------------------------------------------ */

/* Whether there are blocks that were not cut when they shrank, and what part of them may be in use. */
enum { KEPT_NONE, KEPT_HALVES, KEPT_ANY };
static uint8_t kept_whole;

/* Whether a block may need no more than half of what it has: where others were not cut when they shrank, and where it may
 * have been taken for its alignment, which it is not to lose for nothing. */
static ALWAYS_INLINE bool may_have_room(unsigned class_index) {
    return LOAD_RELAXED(heap_serves_aligned[class_index]) || LOAD_RELAXED(kept_whole) != KEPT_NONE;
}

/* Whether a block of usable bytes is a good home for size bytes, which no object is for what a smaller class would hold: the
 * rule by which realloc leaves a block in place, and so also the rule for the sizes that free_sized accepts. */
static ALWAYS_INLINE bool size_fits(size_t size, size_t usable, unsigned class_index) {
    if (size > usable)
        return false;
    if (class_index)
        return usable <= KEEP_ANYWAY || size >= usable - usable / KEPT_PART ||
               size > size_classes[class_index - 1].size ||
               (may_have_room(class_index) && size >= usable / 2);
    return usable - max_size(size, 1) < os_page_bytes() ||
           sizeclass_run_pages(size) << PAGE_SHIFT == usable ||
           (size <= SMALL_MAX && may_have_room(0) && size >= usable / 2);
}

/* What a block that was to move has become.  Where there is no memory one that shrinks stays as it is: programs do not expect
 * that to fail. */
static void *moved_or_kept(void *fresh, void *block, size_t size, size_t usable) {
    if (LIKELY(fresh != NULL) || size > usable)
        return fresh;
    STORE_RELAXED(kept_whole, KEPT_ANY);
    return block;
}

static void *take_copy(const void *block, size_t old, size_t size) {
    void *fresh = size <= SMALL_MAX ? cache_pop(sizeclass_for(size)) : NULL;
    if (!fresh)
        fresh = heap_allocate(size);
    return fresh ? memcpy(fresh, block, min_size(old, size)) : NULL;
}

static void *resize_object(unsigned class_index, void *block, size_t size) {
    size_t usable = size_classes[class_index].size;
    if (!heap_check_object(block, "realloc"))
        return NULL;
    if (size_fits(size, usable, class_index))
        return block;
    void *fresh = take_copy(block, usable, size);
    if (fresh && !cache_push(class_index, block))
        heap_free(block, "realloc");
    return moved_or_kept(fresh, block, size, usable);
}

/* Where runs lay that grew by a small part of their length, lately: page numbers, by their lowest bits.  A hint, for
 * threads write over each other's, and a run that was freed may be followed by another. */
static uint32_t grew_at[GROWTHS_KNOWN];

static bool is_small_step(size_t old, size_t size) {
    return size > old && size - old < old / GROWS_AGAIN;
}

static void note_growth(const void *block, size_t old, size_t size) {
    uint32_t page = (uint32_t)((uintptr_t)block >> PAGE_SHIFT);
    if (is_small_step(old, size))
        STORE_RELAXED(grew_at[page % GROWTHS_KNOWN], page);
}

static bool grew_before(const void *block) {
    uint32_t page = (uint32_t)((uintptr_t)block >> PAGE_SHIFT);
    return LOAD_RELAXED(grew_at[page % GROWTHS_KNOWN]) == page;
}

/* A run that grows by a small part of its length, and did before, will do so again: it goes where it may, so that what
 * is copied in all is a few times its last length, whatever the steps.  Who grows by more sees to that. */
static void *take_roomy(const void *block, size_t old, size_t size) {
    bool soon_again = size > SMALL_MAX && is_small_step(old, size) && grew_before(block);
    bool plain = size < LOAD_RELAXED(heap_plain_below) && !heap_wants_mapping(size);
    size_t pages = heap_run_pages(size);
    if (!soon_again || !plain || !limit_admits(pages << PAGE_SHIFT))
        return NULL;
    uintptr_t run = page_run_take_roomy(pages);
    if (run)
        pagemap_set_class(run, 1, sizeclass_of_run(pages));
    return (void *)run;
}

static void *move(void *block, size_t old, size_t size, bool is_run) {
    void *roomy = is_run ? take_roomy(block, old, size) : NULL;
    void *fresh = roomy ? memcpy(roomy, block, old) : take_copy(block, old, size);
    if (fresh && is_run)
        note_growth(fresh, old, size);
    if (fresh)
        heap_free(block, "realloc");
    return fresh;
}

/* Whether a block may grow by so many bytes. */
static bool admit(size_t more_bytes) {
    if (LIKELY(limit_admits(more_bytes)) || (heap_relieve(more_bytes) && limit_admits(more_bytes)))
        return true;
    heap_refuse(more_bytes);
    return false;
}

/* While its length changes the run has no class. */
static bool resize_run(void *block, size_t old_pages, size_t size) {
    uintptr_t address = (uintptr_t)block;
    size_t pages = heap_run_pages(size);
    unsigned old_class = pagemap_class(block);
    if (old_class)
        pagemap_set_class(address, 1, 0);
    bool done = (pages < old_pages && page_run_shrink(address, pages)) ||
                (pages > old_pages && page_run_extend(address, pages));
    unsigned class_index = done ? sizeclass_of_run(pages) : old_class;
    if (class_index)
        pagemap_set_class(address, 1, class_index);
    return done;
}

/* One that lies in the thread's cache must not change its length.  Reports it. */
static bool check_run(const void *block) {
    bool cached = cache_holds_run(pagemap_class(block), block);
    if (UNLIKELY(cached))
        report_slab_misuse("realloc", block, SLAB_FREE);
    return !cached;
}

/* A run of so many pages; a mapping, or no block at all, where there are none. */
static void *resize_large(void *block, size_t pages, size_t size) {
    size_t usable = pages ? pages << PAGE_SHIFT : heap_place(block, "realloc");
    if (!usable || (pages && !check_run(block)))
        return NULL;
    if (size_fits(size, usable, 0))
        return block;
    bool must_map = false;
    if (size > SMALL_MAX) {
        size_t needed = pages ? heap_run_pages(size) << PAGE_SHIFT : size;
        if (needed > usable && !admit(needed - usable))
            return NULL;
        must_map = pages && needed > usable && heap_must_map(size);
        if (pages && !must_map && resize_run(block, pages, size)) {
            note_growth(block, usable, size);
            return block;
        }
        void *moved = pages ? NULL : mapping_resize(block, size);
        if (moved)
            return moved;
    }
    void *fresh = move(block, usable, size, pages != 0);
    if (UNLIKELY(!fresh) && pages && (must_map || size <= usable) && resize_run(block, pages, size))
        return block;
    if (UNLIKELY(!fresh) && !pages && size <= usable)
        fresh = mapping_resize(block, size);
    return moved_or_kept(fresh, block, size, usable);
}

/* What does not fit where it is moves: what points to the old place is wrong from then on. */
static SELDOM void *resize_exactly(void *block, size_t old, size_t size) {
    bool fits = size <= old && size_fits(size + harden_extra(), heap_place(block, "realloc"),
                                         heap_class_of(block));
    if ((fits || size == old) && harden_stays(block, size))
        return block;
    void *fresh = move(block, old, size, false);
    if (UNLIKELY(!fresh) && size <= old)
        harden_stays(block, size); /* in front of a guard it is as long as before */
    return moved_or_kept(fresh, block, size, old);
}

static bool fits_whole(size_t size, size_t usable, unsigned class_index) {
    unsigned kept = LOAD_RELAXED(kept_whole);
    bool long_enough = kept == KEPT_ANY || (kept == KEPT_HALVES && size >= usable / 2);
    return size_fits(size, usable, class_index) || (size <= usable && long_enough);
}

/* Where it is not known what was asked for, all that is usable is the program's.  What is cut off would be free
 * and not filled: the block keeps it, up to as much again.  False where one has to grow as any other. */
static SELDOM bool resize_hardened(void *block, size_t size, void **result) {
    size_t old;
    *result = NULL;
    if (!harden_size(block, "realloc", &old) || size > PTRDIFF_MAX)
        return true;
    bool exact = harden_has(HARDEN_CANARY | HARDEN_GUARD);
    if (!exact && size > old)
        return false;
    if (LOAD_RELAXED(kept_whole) == KEPT_NONE)
        STORE_RELAXED(kept_whole, KEPT_HALVES);
    if (exact)
        *result = resize_exactly(block, old, size);
    else if (fits_whole(size, old, heap_class_of(block)))
        *result = block;
    else
        *result = moved_or_kept(move(block, old, size, false), block, size, old);
    return true;
}

static NOINLINE void *resize(void *block, size_t size) {
    void *result;
    heap_enter();
    if (UNLIKELY(size >= LOAD_RELAXED(heap_plain_below)) && resize_hardened(block, size, &result))
        return result;
    unsigned class_index = pagemap_class(block);
    size_t pages = 0;
    if (UNLIKELY(!class_index || sizeclass_is_run(class_index))) {
        pages = page_run_pages((uintptr_t)block);
        class_index = pages ? 0 : heap_class_of(block); /* not every slab is in the class map */
    }
    return class_index ? resize_object(class_index, block, size) : resize_large(block, pages, size);
}

/* Whether resize would leave the block where it is, told with little: most that grow do so by little.  Where a pointer is
 * wrong the answer is no. */
static ALWAYS_INLINE bool stays(const void *block, size_t size) {
    unsigned class_index = pagemap_class(block);
    if (LIKELY(class_index && !sizeclass_is_run(class_index)))
        return size_fits(size, size_classes[class_index].size, class_index) &&
               slab_is_taken((uintptr_t)block);
    size_t usable = page_run_pages((uintptr_t)block) << PAGE_SHIFT;
    size_t spare = usable - size; /* very much where it is too short */
    bool fits = spare < PAGE_BYTES ||
                (class_index && sizeclass_has_run(size) && sizeclass_for_run(size) == class_index);
    return fits && !(class_index && cache_holds_run(class_index, block));
}

/* What lives does not change under its owner, so stays needs no repair after a fork. */
void *heap_resize(void *block, size_t size) {
    bool plain = LIKELY(size < LOAD_RELAXED(heap_plain_below));
    return plain && stays(block, size) ? block : resize(block, size);
}

/* ---- checks of C23's sized frees ----------------------------------------------------------------- */

/* With canaries it is known what was asked for; in front of a guard 0 has become 1. */
static SELDOM bool check_exactly(void *block, size_t size, const char *function) {
    size_t asked;
    if (!harden_size(block, function, &asked))
        return false;
    bool same = size == asked || (size == 0 && asked == 1 && harden_has(HARDEN_GUARD)) ||
                (size < asked && LOAD_RELAXED(kept_whole) == KEPT_ANY);
    if (!same)
        report_bad_size(function, block, size, asked);
    return same;
}

bool heap_check_size(void *block, size_t size, const char *function) {
    heap_enter();
    if (harden_has(HARDEN_CANARY))
        return check_exactly(block, size, function);
    size_t usable = heap_usable(block, function);
    unsigned class_index = heap_class_of(block);
    bool own_class = class_index && size <= SMALL_MAX && sizeclass_for(size) == class_index;
    if (usable && (own_class || fits_whole(size, usable, class_index)))
        return true;
    if (usable)
        report_bad_size(function, block, size, usable);
    return false;
}

/* Any alignment that memalign takes, which rounds it up. */
bool heap_check_alignment(void *block, size_t align, size_t size, const char *function) {
    heap_enter();
    bool possible = align <= SIZE_MAX / 2 + 1;
    bool aligned = possible && (uintptr_t)block % power_of_two_from(max_size(align, 1)) == 0;
    if (aligned && harden_has(HARDEN_CANARY))
        return check_exactly(block, size, function);
    size_t usable = heap_usable(block, function);
    if (usable && aligned && size <= usable)
        return true;
    if (usable && !aligned)
        report_bad_alignment(function, block, align);
    else if (usable)
        report_bad_size(function, block, size, usable);
    return false;
}
