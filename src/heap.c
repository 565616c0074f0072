/* SPDX-License-Identifier: MIT
 *
 * heap: the routes.
 *
 * PURPOSE  Decide by size where a block comes from, and by address where it goes back to.
 *
 * ROUTES   up to SMALL_MAX                an object of a slab, through the thread's cache; a mapping
 *                                         where the threshold says so
 *          above, below the threshold     a run of pages; up to RUN_MAX through the thread's cache, longer
 *                                         ones that it takes and gives in turn from its slot (keep.c)
 *          from the mmap threshold on     a mapping of its own; a run where that fails or the
 *                                         number of mappings is at its limit
 *          A route that fails tries the other, and all are tried again after a trim: memory freed
 *          for one size serves any other.
 *
 * THRESHOLD  As glibc's: 128 KiB at first; freeing a mapping of at most 32 MiB raises it above that
 *          size, until the user sets any of the four parameters.  So a program that keeps
 *          allocating and freeing large blocks gets them from runs, without faults.
 *
 * INIT     The first call of the process finds *heap_state_word = 0 and initialises, without any
 *          function that may allocate, lock or be interposed.  Later the word lies in a page that
 *          the kernel wipes in a fork child: 0 there means "repair first" (fork.c).
 *
 * FAILURE  NULL; nothing that lives is touched.
 */
#include "heap_internal.h"

#include "cache.h"
#include "fork.h"
#include "harden.h"
#include "limit.h"
#include "lock.h"
#include "mapping.h"
#include "option.h"
#include "os.h"
#include "page.h"
#include "report.h"

#include <dlfcn.h>
#include <string.h>

#pragma weak dlsym

#define MMAP_THRESHOLD_FIRST ((size_t)128 << 10)
#define MMAP_THRESHOLD_MAX ((size_t)32 << 20)
#define MMAP_MAX_DEFAULT ((size_t)65536)
#define GUARDS_MOST ((size_t)16384) /* each takes two of the kernel's mappings, of some 65 000 */
#define NO_BREAK_BASE ((uintptr_t)1 << 44) /* where the window lies if there is no break */

static uint32_t before_init; /* 0: attend */
uint32_t *heap_state_word = &before_init;
uint16_t heap_usable_known[BIN_COUNT];
size_t heap_plain_below = (size_t)PTRDIFF_MAX + 1;

static struct lock init_lock = LOCK_INITIALISER(LOCK_INIT);
static bool initialised;
static struct lock path_lock = LOCK_INITIALISER(LOCK_PATH); /* guards changes of the modes */

static size_t mmap_threshold = MMAP_THRESHOLD_FIRST;
static size_t mmap_max = MMAP_MAX_DEFAULT;
static size_t guard_from = SIZE_MAX; /* the threshold is never above it */
static bool threshold_fixed;
static bool checks_all;

enum foreign { FOREIGN_ABORT, FOREIGN_LEAK, FOREIGN_LIBC };
static size_t foreign_policy = FOREIGN_ABORT;

/* ---- initialisation ------------------------------------------------------------------------------ */

/* In a fork child this may be the first call of all. */
static void thread_end(void *unused) {
    (void)unused;
    heap_enter();
    cache_leave();
}

/* What has to be done in each call is done on the slow path: then there are no caches, and no size is
 * known without a look at the block. */
static void choose_path(void) {
    bool hardened = LOAD_RELAXED(harden_modes) != 0, slow = LOAD_RELAXED(checks_all) || hardened;
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        STORE_RELAXED(heap_usable_known[i], slow ? 0 : (uint16_t)size_classes[i].size);
    STORE_RELAXED(heap_plain_below, hardened ? 0 : (size_t)PTRDIFF_MAX + 1);
    cache_set_enabled(!slow);
}

void heap_begin_change(void) {
    lock_take(&path_lock);
}

void heap_end_change(void) {
    choose_path();
    lock_drop(&path_lock);
}

void heap_repair(void) {
    if (!lock_broken(&path_lock))
        return;
    choose_path();
    lock_repair(&path_lock);
}

static void initialise(void) {
    sizeclass_init();
    slab_init();
    uintptr_t base = (uintptr_t)os_break_now();
    pagemap_init(base ? base : NO_BREAK_BASE);
    cache_init(thread_end);
    choose_path();
    option_init();
    STORE_RELEASE(initialised, true);
    STORE_RELEASE(heap_state_word, fork_watch());
}

void heap_attend(void) {
    if (LOAD_ACQUIRE(initialised) && heap_state_word != &before_init) {
        fork_repair(heap_state_word);
        return;
    }
    lock_take(&init_lock);
    if (!initialised)
        initialise();
    lock_drop(&init_lock);
    fork_watch_late();
}

/* ---- allocation ---------------------------------------------------------------------------------- */

bool heap_wants_mapping(size_t size) {
    return size >= LOAD_RELAXED(mmap_threshold) && mapping_live() < LOAD_RELAXED(mmap_max) &&
           !mapping_crowded();
}

bool heap_must_map(size_t size) {
    return LOAD_RELAXED(threshold_fixed) && heap_wants_mapping(size);
}

size_t heap_run_pages(size_t size) {
    bool exact = !sizeclass_has_run(size) || page_trim_threshold_set(); /* no caches keep it */
    return exact ? pages_for(size) : sizeclass_run_pages(size);
}

static void *take_run(size_t size, size_t align, bool *zero) {
    size_t pages = heap_run_pages(size);
    if (sizeclass_has_run(size))
        return cache_take_run(sizeclass_for_run(size), pages, align, zero);
    return (void *)page_run_take(pages, max_size(align, PAGE_BYTES), zero);
}

/* What the heap grows by for a block above SMALL_MAX. */
static size_t bytes_taken(size_t size) {
    return heap_wants_mapping(size) ? size : heap_run_pages(size) << PAGE_SHIFT;
}

/* In front of a guard a block is as long as was asked for, without what a canary makes it longer by. */
static void *take_mapping(size_t size, size_t align) {
    size_t more = harden_has(HARDEN_GUARD) ? harden_extra() : 0;
    return mapping_take(max_size(size - more, 1), align);
}

/* From here on no run is aligned so without the heap growing by as much, for good. */
#define ALIGN_MAPPED REGION_BYTES

static void *try_large(size_t size, size_t align, bool *zero) {
    bool mapping_first = heap_wants_mapping(align < ALIGN_MAPPED ? size : max_size(size, align));
    if (!limit_admits(bytes_taken(size)))
        return NULL;
    *zero = true;
    void *block = mapping_first ? take_mapping(size, align) : NULL;
    if (!block && !(mapping_first && align >= ALIGN_MAPPED))
        block = take_run(size, align, zero);
    if (!block && !mapping_first && LOAD_RELAXED(mmap_max) != 0) {
        *zero = true;
        block = take_mapping(size, align);
    }
    return block;
}

/* What can be done where the kernel refuses memory: cached objects may keep whole runs from serving
 * other sizes, and free pages at the top of the break keep their address space from a mapping. */
SELDOM bool heap_relieve(size_t size) {
    if (size > limit_get())
        return false;
    bool released = LOAD_RELAXED(harden_modes) && harden_flush();
    cache_flush();
    released |= cache_drain();
    released |= slab_close_empty();
    if (!released && size > page_free_bytes() && limit_get() == LIMIT_NONE)
        return false;
    page_trim(0);
    return true;
}

/* A block above SMALL_MAX, or of any size where its alignment has no class. */
static void *take_large(size_t size, size_t align, bool *zero) {
    void *block = try_large(size, align, zero);
    if (UNLIKELY(!block) && heap_relieve(size))
        block = try_large(size, align, zero);
    if (UNLIKELY(!block))
        heap_refuse(bytes_taken(size));
    return block;
}

static void *take_small(unsigned class_index) {
    const struct size_class *shape = &size_classes[class_index];
    void *object = cache_take(class_index);
    if (UNLIKELY(!object) && heap_relieve(shape->size))
        object = cache_take(class_index);
    if (UNLIKELY(!object))
        heap_refuse((size_t)shape->pages << PAGE_SHIFT);
    return object;
}

static void *take_pages_once(size_t bytes, size_t align) {
    bool zero;
    if (!limit_admits(bytes))
        return NULL;
    return (void *)page_run_take(pages_for(bytes), max_size(align, PAGE_BYTES), &zero);
}

void *heap_take_pages(size_t bytes, size_t align) {
    void *run = take_pages_once(bytes, align);
    if (UNLIKELY(!run) && heap_relieve(bytes))
        run = take_pages_once(bytes, align);
    if (UNLIKELY(!run))
        heap_refuse(bytes);
    return run;
}

static void *take_object(unsigned class_index, size_t size, size_t align, bool *zero) {
    bool map = UNLIKELY(heap_wants_mapping(size)) && limit_admits(round_up(size, os_page_bytes()));
    void *block = map ? take_mapping(size, align) : NULL;
    *zero = block != NULL;
    return block ? block : take_small(class_index);
}

/* free looks at no pointer that a bin takes.  What is no run's beginning would be a block that overlaps the next one. */
SELDOM void heap_report_inside(const void *address) {
    report_bad_pointer("free", address);
}

/* The run on top of the bin, if it is aligned. */
static void *pop_run(size_t size, size_t align) {
    void *run = heap_pop_run(size);
    if (UNLIKELY(!heap_is_run(run))) {
        if (run)
            heap_report_inside(run);
        return NULL;
    }
    if (LIKELY(((uintptr_t)run & (align - 1)) == 0))
        return run;
    if (!cache_push(sizeclass_for_run(size), run)) /* a signal handler has filled the bin */
        heap_give(run, "free");
    return NULL;
}

/* A run too long for a class, if it is one that the thread takes in turn. */
static void *take_kept(size_t size, size_t align) {
    return heap_wants_mapping(size) ? NULL : (void *)page_run_take_kept(pages_for(size), align);
}

static void *take_above_small(size_t size, size_t align, bool *zero) {
    void *run = sizeclass_has_run(size) ? pop_run(size, align) : take_kept(size, align);
    *zero = false;
    return run ? run : take_large(size, align, zero);
}

static void *take_plain(size_t size, bool *zero) {
    return size > SMALL_MAX ? take_above_small(size, 1, zero)
                            : take_object(sizeclass_for(size), size, 1, zero);
}

void *heap_take(size_t size, size_t align, bool *zero) {
    unsigned class_index = sizeclass_aligned(size, align);
    if (class_index)
        return take_object(class_index, size, align, zero);
    if (size > SMALL_MAX)
        return take_above_small(size, align, zero);
    return take_large(max_size(size, 1), align, zero);
}

void *heap_allocate(size_t size) {
    bool zero;
    heap_enter();
    return UNLIKELY(size >= LOAD_RELAXED(heap_plain_below)) ? harden_allocate(SIZE_GRAIN, size)
                                                            : take_plain(size, &zero);
}

void *heap_allocate_zero(size_t size) {
    bool zero;
    heap_enter();
    if (UNLIKELY(size >= LOAD_RELAXED(heap_plain_below)))
        return harden_allocate_zero(size);
    void *block = take_plain(size, &zero);
    if (block && !zero)
        memset(block, 0, size);
    return block;
}

void *heap_allocate_aligned(size_t align, size_t size) {
    bool zero;
    heap_enter();
    if (UNLIKELY(size >= LOAD_RELAXED(heap_plain_below)))
        return harden_allocate(align, size);
    if (align > PTRDIFF_MAX || size + align > PTRDIFF_MAX)
        return NULL;
    return heap_take(size, align, &zero);
}

/* ---- what a pointer is --------------------------------------------------------------------------- */

unsigned heap_class_of(const void *block) {
    unsigned class_index = pagemap_class(block);
    if (class_index)
        return sizeclass_is_run(class_index) ? 0 : class_index;
    uint32_t head = pagemap_head((uintptr_t)block);
    if (head_kind(head) != HEAD_SLAB)
        return 0;
    return LOAD_RELAXED(pagemap_slab(pagemap_region((uintptr_t)block), head)->class_index);
}

static NOINLINE void report_object(const void *block, const char *function) {
    uintptr_t object = 0;
    bool is_free = false;
    slab_around((uintptr_t)block, &object, &is_free);
    report_slab_misuse(function, block, object == (uintptr_t)block ? SLAB_FREE : SLAB_INTERIOR);
}

bool heap_check_object(const void *block, const char *function) {
    bool taken = slab_is_taken((uintptr_t)block);
    if (UNLIKELY(!taken))
        report_object(block, function);
    return taken;
}

size_t heap_place(const void *block, const char *function) {
    unsigned class_index = heap_class_of(block);
    if (class_index)
        return heap_check_object(block, function) ? size_classes[class_index].size : 0;
    size_t pages = page_run_pages((uintptr_t)block);
    size_t bytes = pages ? pages << PAGE_SHIFT : mapping_bytes(block);
    if (!bytes)
        report_bad_pointer(function, block);
    return bytes;
}

size_t heap_usable(const void *block, const char *function) {
    size_t size;
    heap_enter();
    if (LIKELY(!LOAD_RELAXED(harden_modes)))
        return heap_place(block, function);
    return harden_size(block, function, &size) ? size : 0;
}

/* ---- freeing ------------------------------------------------------------------------------------- */

/* The dynamic rule: a mapping that was freed shows a size that comes and goes.  The next block of that
 * size is to be a run, hence one byte more. */
static void learn_threshold(size_t bytes) {
    if (!LOAD_RELAXED(threshold_fixed) && bytes >= LOAD_RELAXED(mmap_threshold) &&
        bytes <= MMAP_THRESHOLD_MAX)
        STORE_RELAXED(mmap_threshold, bytes + 1);
}

bool heap_passes_on(const void *block) {
    size_t extent;
    heap_enter();
    return LOAD_RELAXED(foreign_policy) != FOREIGN_ABORT &&
           head_kind(pagemap_head((uintptr_t)block)) == HEAD_ABSENT &&
           mapping_around((uintptr_t)block, &extent) == 0;
}

static void (*foreign_free)(void *); /* libc's, where its name leads here */

void heap_set_foreign_free(void (*libc_free)(void *)) {
    STORE_RELEASE(foreign_free, libc_free);
}

/* A pointer that is no part of this heap: programs that ask libc for its malloc. */
static void free_foreign(void *block, const char *function) {
    if (!heap_passes_on(block)) {
        report_bad_pointer(function, block);
        return;
    }
    if (LOAD_RELAXED(foreign_policy) != FOREIGN_LIBC)
        return;
    void (*libc_free)(void *) = LOAD_ACQUIRE(foreign_free);
    if (!libc_free && &dlsym != NULL)
        libc_free = (void (*)(void *))(uintptr_t)dlsym(RTLD_NEXT, "free");
    if (libc_free)
        libc_free(block);
}

static void free_object(unsigned class_index, void *block, const char *function) {
    enum slab_status status = cache_give(class_index, block);
    if (LIKELY(status == SLAB_OK))
        return;
    if (sizeclass_is_run(class_index))
        report_bad_pointer(function, block);
    else
        report_slab_misuse(function, block, status);
}

static ALWAYS_INLINE void give(void *block, const char *function) {
    unsigned class_index = pagemap_class(block);
    bool is_page = (uintptr_t)block % PAGE_BYTES == 0;
    if (!class_index && is_page && page_run_give((uintptr_t)block))
        return;
    if (class_index || (class_index = heap_class_of(block)) != 0) {
        free_object(class_index, block, function);
        return;
    }
    size_t bytes = mapping_give(block);
    if (bytes)
        learn_threshold(bytes);
    else
        free_foreign(block, function);
}

void heap_give(void *block, const char *function) {
    give(block, function);
}

void heap_free(void *block, const char *function) {
    if (!block)
        return;
    heap_enter();
    if (UNLIKELY(LOAD_RELAXED(harden_modes)))
        harden_free(block, function);
    else
        give(block, function);
}

/* ---- control ------------------------------------------------------------------------------------- */

size_t heap_trim(size_t pad) {
    heap_enter();
    if (LOAD_RELAXED(harden_modes))
        harden_flush();
    size_t before = page_returned_bytes();
    cache_flush();
    cache_drain();
    size_t bytes = page_returned_bytes() - before;
    bytes += slab_trim();
    return bytes + page_trim(pad);
}

void heap_set_foreign(size_t policy) {
    STORE_RELAXED(foreign_policy, policy);
}

void heap_end_dynamic_threshold(void) {
    STORE_RELAXED(threshold_fixed, true);
}

void heap_set_mmap_threshold(size_t bytes) {
    bytes = min_size(bytes, LOAD_RELAXED(guard_from));
    STORE_RELAXED(mmap_threshold, bytes);
    cache_set_uncached_from(bytes);
}

void heap_set_guard(size_t from_bytes) {
    STORE_RELAXED(guard_from, from_bytes);
    heap_end_dynamic_threshold();
    heap_set_mmap_threshold(LOAD_RELAXED(mmap_threshold));
    heap_set_mmap_max(LOAD_RELAXED(mmap_max));
}

size_t heap_mmap_threshold(void) {
    return LOAD_RELAXED(mmap_threshold);
}

void heap_set_mmap_max(size_t count) {
    bool guards = LOAD_RELAXED(guard_from) != SIZE_MAX;
    STORE_RELAXED(mmap_max, guards ? min_size(count, GUARDS_MOST) : count);
}

size_t heap_mmap_max(void) {
    return LOAD_RELAXED(mmap_max);
}

void heap_set_check(bool on) {
    heap_begin_change();
    STORE_RELAXED(checks_all, on);
    heap_end_change();
}
