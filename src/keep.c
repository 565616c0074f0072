/* SPDX-License-Identifier: MIT
 *
 * keep: a long run that a thread takes and gives in turn, kept for it without a lock.
 *
 * PURPOSE  A program that takes a buffer of a megabyte for each thing it does, and frees it, wants the same pages again.  Then
 *          neither side needs the page lock: the stretch is exchanged with one word.
 *
 * LAYOUT   KEEP_SLOTS words, each in a line of its own: 0, or the address of a stretch of dirty pages and, in the bits below a
 *          page's, its length less one.  A run is cut from its front, and joins it again:
 *
 *            [ kept, 300 pages ]   take 200:  [RRR...R][kept]   give them:  [ kept, 300 pages ]
 *
 *          Where realloc changes the run's length the border between the two moves.
 *
 *          A thread's slot is told by its number; threads that share one get in each other's way, and no more.
 *
 * STATES   of its pages: in a run (HEAD_RUN n) -> kept (HEAD_CONT n at the first: taken, yet no block) -> in a run, or merged
 *
 * RULE     What a thread gives is kept where it has taken and given long runs in turn KEEP_EARNED times before, never two at
 *          once, whatever their lengths: what a program does once or twice goes the usual way.  A longer one than is kept
 *          takes its place.  Kept pages count as live until they are merged, which they are before clean pages are taken, the
 *          heap grows or is looked at, before anything is purged, and where for a second nobody has wanted them, or half of them.
 *          Where the user has set how much may stay dirty none are kept.
 *
 * LOCKING  None: who takes the word out of a slot, by compare and exchange, has the pages, and who changes a run's head so has
 *          the run.  The page lock's holder merges in the same way.
 *
 * FORK     A slot is as good in a child as it was.  What a thread had in hand leaks.
 */
#include "lock.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

#define UNWANTED_NS ((uint64_t)1000 * 1000 * 1000)

enum { KEEP_SLOTS = 8, KEEP_EARNED = 16, KEEP_MAX_PAGES = PAGE_BYTES };

struct keep_slot {
    uintptr_t kept;
    uint32_t pages;   /* the length taken last */
    uint32_t open;    /* nothing was given since */
    uint32_t times;   /* how often one was taken, then given */
    uint32_t longest; /* taken from here since that was last looked at */
} __attribute__((aligned(64)));

static struct keep_slot slots[KEEP_SLOTS];
bool keep_any;

static struct keep_slot *own_slot(void) {
    return &slots[lock_self() / 2 % KEEP_SLOTS];
}

/* Exchanges a word that holds one value for another; false, and nothing done, where it does not.  Atomic for signal
 * handlers too, and while there is one thread the bus need not know. */
#if defined(__x86_64__) && !defined(QUARRY_DEBUG)
#define SWAP_ALONE(word, from, to)                    \
    if (lock_single_thread()) {                       \
        __typeof__(from) found = from;                \
        __asm__ volatile("cmpxchg %2, %1"             \
                         : "+a"(found), "+m"(*(word)) \
                         : "r"(to)                    \
                         : "cc", "memory");           \
        return found == (from);                       \
    }
#else
#define SWAP_ALONE(word, from, to)
#endif
#define DEFINE_SWAP(name, type)                                                            \
    static bool name(__typeof__(type) *word, __typeof__(type) from, __typeof__(type) to) { \
        SWAP_ALONE(word, from, to)                                                         \
        return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_SEQ_CST,       \
                                           __ATOMIC_RELAXED);                              \
    }

DEFINE_SWAP(swap_word, uintptr_t)
DEFINE_SWAP(swap_head, uint32_t)

static uintptr_t word_of(struct extent extent) {
    return extent.start | ((extent.end - extent.start) / PAGE_BYTES - 1);
}

static size_t pages_of(uintptr_t word) {
    return word % PAGE_BYTES + 1;
}

static struct extent extent_of(uintptr_t word) {
    uintptr_t start = round_down(word, PAGE_BYTES);
    return (struct extent){start, start + (pages_of(word) << PAGE_SHIFT)};
}

/* Empties a slot; false where another thread came by. */
static bool leave(struct keep_slot *slot, uintptr_t word) {
    return swap_word(&slot->kept, word, 0);
}

/* Whoever merges stores the flag first and looks then: one of the two sees the other. */
static ALWAYS_INLINE bool enter(struct keep_slot *slot, struct extent extent) {
    if (!swap_word(&slot->kept, 0, word_of(extent)))
        return false;
    if (UNLIKELY(!__atomic_load_n(&keep_any, __ATOMIC_SEQ_CST)))
        __atomic_store_n(&keep_any, true, __ATOMIC_SEQ_CST);
    return true;
}

/* What was left, unless another thread has come by. */
static void put_rest(struct keep_slot *slot, struct extent rest) {
    if (enter(slot, rest))
        return;
    lock_take(&S.lock);
    run_set_heads(rest, HEAD_FREE);
    extent_insert(rest, true);
    purge_note_more();
    lock_drop(&S.lock);
}

static ALWAYS_INLINE void note_taken_here(struct keep_slot *slot, size_t pages) {
    STORE_RELAXED(slot->pages, (uint32_t)pages);
    STORE_RELAXED(slot->open, true);
    if (pages > LOAD_RELAXED(slot->longest))
        STORE_RELAXED(slot->longest, (uint32_t)pages);
}

/* The head of what is left is there before that of the run no longer covers it, and both before others may have it. */
static NOINLINE void cut(struct keep_slot *slot, struct extent kept, uintptr_t at) {
    struct extent rest = {at, kept.end};
    run_set_heads(rest, HEAD_CONT);
    run_set_heads((struct extent){kept.start, at}, HEAD_RUN);
    put_rest(slot, rest);
}

uintptr_t page_run_take_kept(size_t pages, size_t align_bytes) {
    struct keep_slot *slot = own_slot();
    uintptr_t word = LOAD_RELAXED(slot->kept), start = round_down(word, PAGE_BYTES);
    bool whole = pages_of(word) == pages;
    if (word == 0 || LOAD_RELAXED(slot->times) < KEEP_EARNED || pages_of(word) < pages ||
        (start & (align_bytes - 1)) != 0 || (!whole && !run_may_lie_at(start, pages)) ||
        !leave(slot, word))
        return 0;
    note_taken_here(slot, pages);
    struct region *region = pagemap_region(start);
    if (LIKELY(whole)) /* in later regions the same words are right */
        pagemap_set_head(region, pagemap_page(region, start), head_make(HEAD_RUN, (uint32_t)pages));
    else
        cut(slot, extent_of(word), start + (pages << PAGE_SHIFT));
    return start;
}

void keep_note_taken(size_t pages) {
    struct keep_slot *slot = own_slot();
    if (LOAD_RELAXED(slot->open)) /* two at once */
        STORE_RELAXED(slot->times, 0);
    STORE_RELAXED(slot->pages, (uint32_t)pages);
    STORE_RELAXED(slot->open, true);
}

void keep_note_given(size_t pages) {
    struct keep_slot *slot = own_slot();
    bool in_turn = LOAD_RELAXED(slot->pages) == pages && LOAD_RELAXED(slot->open);
    uint32_t times = (uint32_t)min_size(LOAD_RELAXED(slot->times) + 1u, KEEP_EARNED);
    STORE_RELAXED(slot->open, false);
    STORE_RELAXED(slot->times, in_turn ? times : 0);
}

/* What is kept joins the run before it, which is in hand; false where it lies elsewhere. */
static NOINLINE bool join(struct keep_slot *slot, uintptr_t word, struct extent *run) {
    struct extent kept = extent_of(word);
    if (kept.start != run->end || kept.end - run->start > KEEP_MAX_PAGES * PAGE_BYTES ||
        !leave(slot, word))
        return false;
    run->end = kept.end;
    run_set_heads(*run, HEAD_CONT);
    if (kept.start % REGION_BYTES != 0) /* else it has a word of the stretch */
        run_set_heads((struct extent){kept.start, kept.start + PAGE_BYTES}, HEAD_FREE);
    return true;
}

/* Whether the run that the thread has open is one that is kept when it is given. */
static ALWAYS_INLINE bool has_earned(const struct keep_slot *slot) {
    return UNLIKELY(LOAD_RELAXED(slot->times) >= KEEP_EARNED) && LOAD_RELAXED(slot->open) &&
           LOAD_RELAXED(slot->pages) <= KEEP_MAX_PAGES && !LOAD_RELAXED(S.trim_threshold_set);
}

/* Makes a run that is as long as the one that is open nobody's: it is in hand then. */
static ALWAYS_INLINE bool claim(const struct keep_slot *slot, uintptr_t address,
                                struct extent *run) {
    struct region *region = pagemap_region(address);
    uint32_t pages = LOAD_RELAXED(slot->pages);
    *run = (struct extent){address, address + ((size_t)pages << PAGE_SHIFT)};
    return region && swap_head(&region->head[pagemap_page(region, address)],
                               head_make(HEAD_RUN, pages), head_make(HEAD_CONT, pages));
}

bool keep_give(uintptr_t address) {
    struct keep_slot *slot = own_slot();
    struct extent run;
    if (!has_earned(slot) || !claim(slot, address, &run))
        return false;
    uintptr_t word = LOAD_RELAXED(slot->kept);
    STORE_RELAXED(slot->open, false);
    if ((word == 0 || join(slot, word, &run)) && enter(slot, run))
        return true;
    run_set_heads(run, HEAD_RUN);
    return false;
}

void keep_note_resized(size_t old_pages, size_t pages) {
    struct keep_slot *slot = own_slot();
    if (LOAD_RELAXED(slot->pages) == old_pages)
        STORE_RELAXED(slot->pages, (uint32_t)pages);
}

bool keep_resize_long(uintptr_t address, size_t pages) {
    struct keep_slot *slot = own_slot();
    uintptr_t word = LOAD_RELAXED(slot->kept), end = address + (pages << PAGE_SHIFT);
    bool grows = pages > LOAD_RELAXED(slot->pages);
    struct extent run;
    if (!has_earned(slot) || !run_may_lie_at(address, pages) ||
        (grows && extent_of(word).end < end) || !claim(slot, address, &run))
        return false;
    if (word != 0 && !join(slot, word, &run)) {
        run_set_heads(run, HEAD_RUN);
        return false;
    }
    if (run.end > end)
        cut(slot, run, end);
    else
        run_set_heads(run, HEAD_RUN);
    note_taken_here(slot, pages);
    return true;
}

bool keep_leave(struct extent *kept) {
    struct keep_slot *slot = own_slot();
    uintptr_t word = LOAD_RELAXED(slot->kept);
    *kept = extent_of(word);
    return word != 0 && leave(slot, word);
}

static bool merge(struct keep_slot *slot) {
    uintptr_t word = __atomic_load_n(&slot->kept, __ATOMIC_SEQ_CST);
    if (word == 0 || !leave(slot, word))
        return false;
    run_set_heads(extent_of(word), HEAD_FREE);
    extent_insert(extent_of(word), true);
    return true;
}

bool keep_merge(void) {
    bool merged = false;
    __atomic_store_n(&keep_any, false, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < KEEP_SLOTS; i++)
        merged |= merge(&slots[i]);
    if (merged)
        purge_note_more();
    return merged;
}

bool keep_is_due(void) {
    return UNLIKELY(LOAD_RELAXED(keep_any)) &&
           os_clock_ns() - LOAD_RELAXED(S.kept_ns) >= UNWANTED_NS;
}

/* What was not wanted since the last look, or not half of it. */
void keep_merge_old(void) {
    STORE_RELAXED(S.kept_ns, os_clock_ns());
    for (unsigned i = 0; i < KEEP_SLOTS; i++) {
        struct keep_slot *slot = &slots[i];
        size_t kept_pages = pages_of(LOAD_RELAXED(slot->kept));
        if (LOAD_RELAXED(slot->longest) < kept_pages / 2)
            merge(slot);
        STORE_RELAXED(slot->longest, 0);
    }
}
