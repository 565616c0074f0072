/* SPDX-License-Identifier: MIT
 *
 * harden: what finds the errors that a heap cannot see, or keeps them from doing harm.
 *
 * PURPOSE  In one binary, switched on by the environment: fill what is freed (perturb, zero), find what
 *          was written beyond a block (canary, guard) and after it was freed (quarantine).
 *
 * LAYOUT   With canaries a block is longer by CANARY_BYTES than what was asked for:
 *
 *            | size bytes | pattern, 8 bytes or more | word |       word: the size, disguised
 *
 *          The word is size * ODD ^ (secret + address).  Whatever changes in it, another number comes
 *          out, which is no possible size.  Up to eight bytes too many leave the size to be told.
 *          In front of a guard there is the pattern alone: the table of mappings knows the size.
 *
 * RULE     Freed memory is filled: with perturb, if set; else with 0 under zero; else, before it waits, with
 *          FREED.  Mappings are not: they go back to the kernel, or wait as addresses without memory.
 *          With canaries or guards a block that grows moves: what points to the old one is wrong from then on.
 *          One that shrinks stays whole or moves, for what was cut off would be free and not filled.
 *          A block that waits counts as in use everywhere.
 *          Blocks of object caches and of heaps (quarry_cache_, quarry_heap_) are as always.
 *
 * LOCKING  None of its own; the quarantine has one, and who changes harden_modes holds heap.c's lock.  It changes
 *          while threads run: who has a cache goes on with it until its next slow operation, as when
 *          QUARRY_CHECK is set late.
 *
 * FAILURE  A guard that cannot be had (memory, number of mappings) is left out; what cannot wait goes back at
 *          once.  Where a wrong use does not abort the block is left alone, which leaks it.
 *
 * COST     No cache, and what is written and compared; docs/decisions/0023 has numbers.  Nothing where it
 *          is off: sizes from heap_plain_below on come here, and that is PTRDIFF_MAX + 1 then.
 *
 * WHY NOT  Underruns: a word in front of the block costs 16 bytes more for an error that is rare.
 */
#include "harden.h"

#include "heap_internal.h"
#include "mapping.h"
#include "os.h"
#include "page.h"
#include "quarantine.h"
#include "report.h"

#include <string.h>

#define ODD ((uint64_t)0x9e3779b97f4a7c15)
#define ODD_INVERSE ((uint64_t)0xf1de83e19937733d)
#define WORD sizeof(uint64_t)

enum { FREED = 0xdb };

unsigned harden_modes;
static uint64_t secret;
static uint8_t perturb;
static bool zero_freed;

/* ---- parameters ---------------------------------------------------------------------------------- */

/* Between heap_begin_change and heap_end_change. */
static void set_mode(unsigned mode, bool on) {
    if (on)
        __atomic_fetch_or(&harden_modes, mode, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and(&harden_modes, ~mode, __ATOMIC_RELAXED);
}

void harden_set_perturb(unsigned byte) {
    heap_begin_change();
    STORE_RELAXED(perturb, (uint8_t)byte);
    set_mode(HARDEN_FILL, byte || LOAD_RELAXED(zero_freed));
    heap_end_change();
}

void harden_set_zero(bool on) {
    heap_begin_change();
    STORE_RELAXED(zero_freed, on);
    set_mode(HARDEN_FILL, on || LOAD_RELAXED(perturb));
    heap_end_change();
}

/* Once the limit is 0 nothing is added; the mode stays until nothing waits. */
void harden_set_quarantine(size_t bytes) {
    heap_begin_change();
    quarantine_set_limit(bytes);
    if (bytes == 0)
        harden_flush();
    set_mode(HARDEN_QUARANTINE, bytes != 0);
    heap_end_change();
}

void harden_begin_canaries(void) {
    heap_begin_change();
    secret = os_random();
    set_mode(HARDEN_CANARY, true);
    heap_end_change();
}

void harden_begin_guards(size_t from_bytes) {
    heap_begin_change();
    heap_set_guard(from_bytes);
    mapping_guard_all();
    set_mode(HARDEN_GUARD, true);
    heap_end_change();
}

/* ---- canaries ------------------------------------------------------------------------------------ */

/* A live block: how long it is for the heap, and for the program. */
struct place {
    size_t whole, asked;
    bool mapped;
};

static uint8_t pattern_byte(void) {
    return (uint8_t)(secret >> 56) | 1; /* not 0, which is what is written most */
}

/* How far the pattern goes; the word, if there is one, is behind it. */
static size_t pattern_end(const void *block, const struct place *place) {
    bool guarded = place->mapped && harden_has(HARDEN_GUARD);
    uintptr_t start = (uintptr_t)block, end = start + place->whole;
    return guarded ? round_up(end, os_page_bytes()) - start : place->whole - WORD;
}

static uint64_t disguise(const void *block) {
    return secret + (uintptr_t)block;
}

static void write_canary(void *block, const struct place *place) {
    size_t end = pattern_end(block, place);
    memset((char *)block + place->asked, pattern_byte(), end - place->asked);
    if (end < place->whole) {
        uint64_t word = place->asked * ODD ^ disguise(block);
        memcpy((char *)block + end, &word, WORD);
    }
}

static bool all_are(const uint8_t *from, const uint8_t *end, uint8_t byte) {
    while (from < end && *from == byte)
        from++;
    return from == end;
}

/* Finds out what was asked for. */
static bool read_canary(const void *block, struct place *place) {
    size_t end = pattern_end(block, place);
    if (end < place->whole) {
        uint64_t word;
        memcpy(&word, (const char *)block + end, WORD);
        place->asked = (word ^ disguise(block)) * ODD_INVERSE;
        if (place->asked > place->whole - CANARY_BYTES) {
            place->asked = SIZE_MAX;
            return false;
        }
    }
    const uint8_t *bytes = block;
    return all_are(bytes + place->asked, bytes + end, pattern_byte());
}

/* ---- what a block is ----------------------------------------------------------------------------- */

static bool is_mapping(const void *block) {
    return !heap_class_of(block) && !page_run_pages((uintptr_t)block);
}

static bool look(const void *block, const char *function, struct place *place) {
    place->whole = place->asked = heap_place(block, function);
    place->mapped = is_mapping(block);
    if (place->whole == 0)
        return false;
    if (harden_has(HARDEN_QUARANTINE) && quarantine_holds(block)) {
        report_slab_misuse(function, block, SLAB_FREE);
        return false;
    }
    bool good = !harden_has(HARDEN_CANARY) || read_canary(block, place);
    if (!good)
        report_overrun(function, block, place->asked);
    return good;
}

bool harden_size(const void *block, const char *function, size_t *size) {
    struct place place;
    bool good = look(block, function, &place);
    *size = place.asked;
    return good;
}

/* A guard stands where the size was. */
bool harden_stays(void *block, size_t size) {
    struct place place = {
        .whole = heap_place(block, "realloc"), .asked = size, .mapped = is_mapping(block)};
    if (place.mapped && harden_has(HARDEN_GUARD))
        return size == place.whole;
    if (harden_has(HARDEN_CANARY))
        write_canary(block, &place);
    return true;
}

/* ---- allocation ---------------------------------------------------------------------------------- */

static void *take(size_t align, size_t size, bool *zero) {
    size_t more = harden_extra();
    if (size > PTRDIFF_MAX || align > PTRDIFF_MAX || size + more + align > PTRDIFF_MAX)
        return NULL;
    void *block = heap_take(size + more, align, zero);
    if (block && more) {
        struct place place = {.whole = heap_place(block, "malloc"), .mapped = is_mapping(block)};
        bool guarded = place.mapped && harden_has(HARDEN_GUARD);
        place.asked = guarded ? place.whole : size;
        write_canary(block, &place);
    }
    return block;
}

void *harden_allocate(size_t align, size_t size) {
    bool zero;
    void *block = take(align, size, &zero);
    uint8_t byte = LOAD_RELAXED(perturb);
    return block && byte ? memset(block, byte ^ 0xff, size) : block;
}

void *harden_allocate_zero(size_t size) {
    bool zero;
    void *block = take(SIZE_GRAIN, size, &zero);
    return block && !zero ? memset(block, 0, size) : block;
}

/* ---- freeing ------------------------------------------------------------------------------------- */

/* A block comes out of quarantine. */
static void release(const struct quarantined *old) {
    void *block = (void *)old->address;
    const uint8_t *bytes = block;
    if (old->mapped || all_are(bytes, bytes + old->bytes, old->fill))
        heap_give(block, "free");
    else
        report_late_write(block);
}

bool harden_flush(void) {
    struct quarantined old;
    bool any = false;
    for (; quarantine_take(&old, true); any = true)
        release(&old);
    return any;
}

/* A block goes into quarantine, and what has been there longest leaves for it.  Half of the mappings that
 * there may be are for blocks that live: what gets none has no guard. */
static void keep(void *block, const struct quarantined *entry, const char *function) {
    struct quarantined old;
    enum quarantine_answer answer = quarantine_add(entry);
    if (answer == QUARANTINE_REFUSED)
        heap_give(block, function);
    else if (answer == QUARANTINE_KNOWN)
        report_slab_misuse(function, block, SLAB_FREE);
    while (quarantine_take(&old, quarantine_mappings() > heap_mmap_max() / 2))
        release(&old);
}

static uint8_t fill_byte(void) {
    uint8_t byte = LOAD_RELAXED(perturb);
    return byte || LOAD_RELAXED(zero_freed) ? byte : FREED;
}

/* What is no block of the heap is free_foreign's. */
void harden_free(void *block, const char *function) {
    struct place place;
    if (is_mapping(block) && mapping_bytes(block) == 0) {
        heap_give(block, function);
        return;
    }
    if (!look(block, function, &place))
        return;
    struct quarantined entry = {(uintptr_t)block, round_up(place.whole, SIZE_GRAIN), fill_byte(),
                                place.mapped};
    bool quarantine = harden_has(HARDEN_QUARANTINE);
    if (!place.mapped && (quarantine || harden_has(HARDEN_FILL)))
        memset(block, entry.fill, place.whole);
    if (quarantine && (!place.mapped || mapping_seal(block)))
        keep(block, &entry, function);
    else
        heap_give(block, function);
}
