/* SPDX-License-Identifier: MIT
 *
 * keep: a long run that a thread takes and gives in turn, kept for it without a lock.
 *
 * PURPOSE  A program that takes a buffer of a megabyte for each thing it does, and frees it, wants the same one again.  Then
 *          neither side needs the page lock: the run is exchanged with one word.
 *
 * LAYOUT   KEEP_SLOTS words, each in a line of its own: 0, or the address of a run and, in the bits below a page's, its length less one.
 *          A thread's slot is told by its number; threads that share one get in each other's way, and no more.
 *
 * STATES   of a run: allocated (HEAD_RUN n) -> kept (HEAD_CONT n: taken, yet no block) -> allocated, or merged
 *
 * RULE     A run is kept where the slot's thread has taken and given its length in turn KEEP_EARNED times before, and no other
 *          long run: what a program does once or twice goes the usual way.  Kept pages count as live until they are merged, which they are before clean pages
 *          are taken, the heap grows or is looked at, before anything is purged, and where nobody has wanted them for a second.
 *          Where the user has set how much may stay dirty none is kept.
 *
 * LOCKING  None: who changes a run's head, and the slot's word, by compare and exchange has the run.  The page lock's holder
 *          merges in the same way.
 *
 * FORK     A slot is as good in a child as it was.  Cut between head and slot, the run leaks.
 */
#include "lock.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

#define UNWANTED_NS ((uint64_t)1000 * 1000 * 1000)

enum { KEEP_SLOTS = 8, KEEP_EARNED = 16, KEEP_MAX_PAGES = PAGE_BYTES };

struct keep_slot {
    uintptr_t run;
    uint32_t pages;       /* the length taken last */
    uint32_t open;        /* nothing was given since */
    uint32_t times;       /* how often that length was taken, then given, and nothing else */
    uint32_t taken, seen; /* how often a run was taken from here; when that was last looked at */
} __attribute__((aligned(64)));

static struct keep_slot slots[KEEP_SLOTS];
bool keep_any;

static struct keep_slot *own_slot(void) {
    return &slots[lock_self() / 2 % KEEP_SLOTS];
}

/* Atomic for signal handlers too.  While there is one thread the bus need not know. */
#if defined(__x86_64__) && !defined(QUARRY_DEBUG)
#define SWAP(instruction, word, from, to) \
    __asm__ volatile(instruction " %2, %1" : "+a"(from), "+m"(*(word)) : "r"(to) : "cc", "memory")
#endif

static bool swap_word(uintptr_t *word, uintptr_t from, uintptr_t to) {
#ifdef SWAP
    uintptr_t found = from;
    if (lock_single_thread()) {
        SWAP("cmpxchgq", word, found, to);
        return found == from;
    }
#endif
    return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static bool swap_head(uint32_t *word, uint32_t from, uint32_t to) {
#ifdef SWAP
    uint32_t found = from;
    if (lock_single_thread()) {
        SWAP("cmpxchgl", word, found, to);
        return found == from;
    }
#endif
    return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static uintptr_t word_of(uintptr_t address, size_t pages) {
    return address | (pages - 1);
}

static size_t pages_of(uintptr_t word) {
    return word % PAGE_BYTES + 1;
}

static uintptr_t address_of(uintptr_t word) {
    return round_down(word, PAGE_BYTES);
}

uintptr_t page_run_take_kept(size_t pages, size_t align_bytes) {
    struct keep_slot *slot = own_slot();
    uintptr_t word = LOAD_RELAXED(slot->run), address = address_of(word);
    if (word == 0 || pages_of(word) != pages || (address & (align_bytes - 1)) != 0 ||
        !swap_word(&slot->run, word, 0))
        return 0;
    struct region *region = pagemap_region(address);
    STORE_RELAXED(slot->open, true);
    STORE_RELAXED(slot->taken, LOAD_RELAXED(slot->taken) + 1);
    pagemap_set_head(region, pagemap_page(region, address), head_make(HEAD_RUN, (uint32_t)pages));
    return address;
}

void keep_note_taken(size_t pages) {
    struct keep_slot *slot = own_slot();
    if (LOAD_RELAXED(slot->pages) != pages || LOAD_RELAXED(slot->open))
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

bool keep_give(uintptr_t address) {
    struct keep_slot *slot = own_slot();
    if (LIKELY(LOAD_RELAXED(slot->times) < KEEP_EARNED) || !LOAD_RELAXED(slot->open) ||
        LOAD_RELAXED(S.trim_threshold_set))
        return false;
    struct region *region = pagemap_region(address);
    uint32_t *head = region ? &region->head[pagemap_page(region, address)] : NULL;
    uint32_t pages = LOAD_RELAXED(slot->pages), is_run = head_make(HEAD_RUN, pages);
    if (!head || pages > KEEP_MAX_PAGES || !swap_head(head, is_run, head_make(HEAD_CONT, pages)))
        return false;
    STORE_RELAXED(slot->open, false);
    if (!LOAD_RELAXED(keep_any))
        STORE_RELAXED(keep_any, true);
    if (swap_word(&slot->run, 0, word_of(address, pages)))
        return true;
    STORE_RELEASE(*head, is_run); /* there is one already */
    return false;
}

/* Takes what a slot keeps out of it; start 0 where that is nothing. */
static struct extent leave(struct keep_slot *slot) {
    uintptr_t word = LOAD_RELAXED(slot->run), address = address_of(word);
    if (word == 0 || !swap_word(&slot->run, word, 0))
        return (struct extent){0, 0};
    return (struct extent){address, address + (pages_of(word) << PAGE_SHIFT)};
}

static bool merge(struct keep_slot *slot) {
    struct extent run = leave(slot);
    if (!run.start)
        return false;
    run_set_heads(run, HEAD_FREE);
    extent_insert(run, true);
    return true;
}

struct extent keep_leave(void) {
    return leave(own_slot());
}

/* First the word: a run that enters meanwhile sets it again. */
bool keep_merge(void) {
    bool merged = false;
    STORE_RELAXED(keep_any, false);
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

/* What was not taken since the last look. */
bool keep_merge_old(void) {
    bool merged = false;
    STORE_RELAXED(S.kept_ns, os_clock_ns());
    for (unsigned i = 0; i < KEEP_SLOTS; i++) {
        uint32_t taken = LOAD_RELAXED(slots[i].taken);
        if (taken == slots[i].seen)
            merged |= merge(&slots[i]);
        slots[i].seen = taken;
    }
    return merged;
}
