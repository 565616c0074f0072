/* SPDX-License-Identifier: MIT
 *
 * buddy: free pages as aligned power-of-two blocks (Knowlton 1965; Knuth, TAOCP 1, 2.5).
 *
 * TERMS    A block of order o is 2^o pages, its first page a multiple of 2^o.  Its buddy is the
 *          block whose first page differs in bit o only; both together are a block of order o+1.
 *
 * IDEA     Which blocks there are follows from which pages are free: a block is an aligned group of
 *          free pages that is not part of a larger one.  So nothing is split or merged; a bit for
 *          each page is all that changes, and blocks are read off the bits, six shifts for a word:
 *
 *            pages                0 1 1 1  1 1 1 1  1 0 0 0     order 0: pages 1 and 8
 *            free pairs             -  11   11  11   -          order 1: page 2
 *            pairs of pairs           -       1111              order 2: page 4
 *
 * LAYOUT   free[]  [word 0 |word 1 |...|word 127]   a bit for each page: blocks of orders 0 to 5
 *          whole[] [bit 0, bit 1 ... |  ... 127]    a bit for each word that is all ones: in the same
 *                                                   manner orders 6 to 12; both words together: 13
 *          orders[] says of each word which orders its blocks have: a search passes over eight at once.
 *          No links: freed memory is never touched, and 1.2 KiB describe 32 MiB.
 *
 * INVARIANTS
 *   INV-BUDDY-1  pages says how many bits of free are set.
 *   INV-BUDDY-2  orders agrees with free.
 *   INV-BUDDY-3  whole agrees with free.
 *
 * COST     insert and remove: a store or two for each word, and at most six steps where it changes in part,
 *          whatever the neighbours are.
 *
 * WHY NOT  Links inside free pages: reading them faults purged pages in, and a stray write into
 *          freed memory would steer the allocator.  A bit for each block that there is: a run of 250
 *          pages is twelve of them, to be looked for, split and merged one by one, at every change.
 */
#include "buddy.h"

#include <string.h>

enum { WORD_ORDER = 6 }; /* a word of bits is a block of 2^6 of what they stand for */

#define ALL bit_mask(64)

/* ---- the blocks of one word ---------------------------------------------------------------------- */

/* Of aligned groups of 2^order free bits, each given by its first, those whose buddy is free as well and
 * that come first of the two. */
static ALWAYS_INLINE uint64_t pairs(uint64_t groups, unsigned order) {
    static const uint64_t aligned[WORD_ORDER] = {0x5555555555555555, 0x1111111111111111,
                                                 0x0101010101010101, 0x0001000100010001,
                                                 0x0000000100000001, 0x0000000000000001};
    return groups & groups >> (1u << order) & aligned[order];
}

/* Those of them that are in no pair. */
static ALWAYS_INLINE uint64_t singles(uint64_t groups, uint64_t merged, unsigned order) {
    return groups & ~(merged | merged << (1u << order));
}

/* The first bits of the blocks of exactly this order. */
static uint64_t blocks_in(uint64_t word, unsigned order) {
    if (order == WORD_ORDER)
        return word == ALL;
    for (unsigned below = 0; below < order; below++)
        word = pairs(word, below);
    return singles(word, pairs(word, order), order);
}

/* Notes whether some block is of this order; returns what is left for larger ones. */
static ALWAYS_INLINE uint64_t note_order(uint64_t groups, unsigned order, unsigned *orders) {
    uint64_t merged = pairs(groups, order);
    *orders |= (unsigned)(singles(groups, merged, order) != 0) << order;
    return merged;
}

/* Bit o: some block is of order o.  Runs for each word that changes: no loop, so that all shifts are
 * by constants, and no step more than there are orders. */
static unsigned orders_in(uint64_t word) {
    unsigned orders = 0;
    if (word == ALL)
        return 1u << WORD_ORDER;
    if (word && (word = note_order(word, 0, &orders)) && (word = note_order(word, 1, &orders)) &&
        (word = note_order(word, 2, &orders)) && (word = note_order(word, 3, &orders)) &&
        (word = note_order(word, 4, &orders)))
        note_order(word, 5, &orders);
    return orders;
}

/* ---- changes ------------------------------------------------------------------------------------- */

static inline void put_word(struct buddy *set, unsigned index, uint64_t word) {
    uint64_t *whole = &set->whole[index / 64], bit = (uint64_t)1 << index % 64;
    set->free[index] = word;
    set->orders.of[index] = (uint8_t)orders_in(word);
    *whole = word == ALL ? *whole | bit : *whole & ~bit;
}

/* The bits of a word for pages first .. end-1, of which it has some. */
static inline uint64_t bits_of(unsigned index, unsigned first, unsigned end) {
    unsigned start = index * 64;
    uint64_t below = first > start ? bit_mask(first - start) : 0;
    return bit_mask(end - start) & ~below;
}

/* Words first .. end-1, at least one, become all ones or all zeros. */
static inline void fill_words(struct buddy *set, unsigned first, unsigned end, bool ones) {
    for (unsigned index = first; index < end; index++) {
        quarry_assert(set->free[index] == (ones ? 0 : ALL));
        set->free[index] = ones ? ALL : 0;
    }
    memset(set->orders.of + first, ones ? 1 << WORD_ORDER : 0, end - first);
    for (unsigned half = first / 64; half <= (end - 1) / 64; half++) {
        uint64_t bits = bits_of(half, first, end);
        set->whole[half] = ones ? set->whole[half] | bits : set->whole[half] & ~bits;
    }
}

/* The pages of one word, or some of them, change: those first .. end-1 that lie in it. */
static inline void change_word(struct buddy *set, unsigned index, unsigned first, unsigned end,
                               bool ones) {
    uint64_t bits = bits_of(index, first, end);
    quarry_assert((set->free[index] & bits) == (ones ? 0 : bits));
    put_word(set, index, ones ? set->free[index] | bits : set->free[index] & ~bits);
}

/* Words that are covered whole are stored, and not worked out. */
static NOINLINE void change_long(struct buddy *set, unsigned first, unsigned end, bool ones) {
    unsigned whole = (first + 63) / 64;
    if (first % 64)
        change_word(set, first / 64, first, end, ones);
    fill_words(set, whole, end / 64, ones);
    if (end % 64)
        change_word(set, end / 64, first, end, ones);
}

enum { LONG_PAGES = 512 }; /* from where on to store them pays */

static ALWAYS_INLINE void change(struct buddy *set, unsigned first, unsigned count, bool ones) {
    unsigned end = first + count;
    quarry_assert(end <= BUDDY_PAGES);
    if (UNLIKELY(count >= LONG_PAGES)) {
        change_long(set, first, end, ones);
        return;
    }
    for (unsigned index = first / 64; index * 64 < end; index++)
        change_word(set, index, first, end, ones);
}

void buddy_insert(struct buddy *set, unsigned first, unsigned count) {
    set->pages += count;
    change(set, first, count, true);
}

void buddy_remove(struct buddy *set, unsigned first, unsigned count) {
    set->pages -= count;
    change(set, first, count, false);
}

/* ---- blocks -------------------------------------------------------------------------------------- */

static bool is_one_block(const struct buddy *set) {
    return (set->whole[0] & set->whole[1]) == ALL;
}

uint32_t buddy_orders(const struct buddy *set) {
    if (is_one_block(set))
        return 1u << BUDDY_MAX_ORDER;
    const uint64_t *eight = set->orders.eight;
    uint64_t all = 0;
    for (unsigned i = 0; i < BUDDY_EIGHTS; i += 4)
        all |= eight[i] | eight[i + 1] | eight[i + 2] | eight[i + 3];
    all |= all >> 32;
    all |= all >> 16;
    all |= all >> 8;
    uint32_t small = (uint32_t)(all & bit_mask(WORD_ORDER));
    return small | (orders_in(set->whole[0]) | orders_in(set->whole[1])) << WORD_ORDER;
}

/* Words of bits of which the blocks of an order are read: one of free for the small ones, else one of whole. */
static unsigned words_for(unsigned order) {
    return order < WORD_ORDER ? BUDDY_WORDS : 2;
}

/* The blocks of exactly this order in one of them: each by its first bit. */
static uint64_t blocks_of(const struct buddy *set, unsigned order, unsigned index) {
    if (order < WORD_ORDER)
        return blocks_in(set->free[index], order);
    if (is_one_block(set))
        return order == BUDDY_MAX_ORDER && index == 0;
    return order < BUDDY_MAX_ORDER ? blocks_in(set->whole[index], order - WORD_ORDER) : 0;
}

/* How many pages a bit of such a word stands for, as a power of two. */
static unsigned page_shift(unsigned order) {
    return order < WORD_ORDER ? 0 : WORD_ORDER;
}

static unsigned count_in(uint64_t word) {
    unsigned count = 0;
    if (word == ALL)
        return 1;
    for (unsigned order = 0; word; order++) {
        uint64_t merged = pairs(word, order);
        count += (unsigned)__builtin_popcountll(singles(word, merged, order));
        word = merged;
    }
    return count;
}

unsigned buddy_blocks(const struct buddy *set) {
    if (is_one_block(set))
        return 1;
    unsigned count = count_in(set->whole[0]) + count_in(set->whole[1]);
    for (unsigned index = 0; index < BUDDY_WORDS; index++)
        if (set->orders.of[index] & bit_mask(WORD_ORDER))
            count += count_in(set->free[index]);
    return count;
}

/* The first word at or behind index that has blocks of a small order; BUDDY_WORDS if none does. */
static unsigned next_word(const struct buddy *set, unsigned order, unsigned index) {
    uint64_t passed = bit_mask(index % 8 * 8);
    for (unsigned i = index / 8; i < BUDDY_EIGHTS; i++, passed = 0) {
        uint64_t found = set->orders.eight[i] & EACH_BYTE((uint64_t)1 << order) & ~passed;
        if (found)
            return i * 8 + bit_lowest(found) / 8;
    }
    return BUDDY_WORDS;
}

int buddy_next(const struct buddy *set, unsigned order, unsigned from) {
    unsigned shift = page_shift(order), bit = (from + (1u << shift) - 1) >> shift;
    uint64_t passed = bit_mask(bit % 64);
    for (unsigned index = bit / 64; index < words_for(order); index++, passed = 0) {
        uint64_t blocks = blocks_of(set, order, index) & ~passed;
        if (blocks)
            return (int)((index * 64 + bit_lowest(blocks)) << shift);
        if (order < WORD_ORDER)
            index = next_word(set, order, index + 1) - 1;
    }
    return -1;
}

unsigned buddy_last(const struct buddy *set, unsigned order) {
    unsigned index = words_for(order) - 1;
    uint64_t blocks;
    while ((blocks = blocks_of(set, order, index)) == 0 && index > 0)
        index--;
    return (index * 64 + bit_highest(blocks)) << page_shift(order);
}

int buddy_find(const struct buddy *set, unsigned min_order, unsigned *order) {
    uint32_t orders = buddy_orders(set) >> min_order << min_order;
    if (orders == 0)
        return -1;
    *order = bit_lowest(orders);
    return buddy_next(set, *order, 0);
}

unsigned buddy_order_for(size_t count) {
    return count <= 1 ? 0 : bit_highest(count - 1) + 1;
}

const char *buddy_verify(const struct buddy *set) {
    uint32_t pages = 0;
    for (unsigned index = 0; index < BUDDY_WORDS; index++) {
        uint64_t word = set->free[index];
        if (set->orders.of[index] != orders_in(word))
            return "INV-BUDDY-2";
        if (((set->whole[index / 64] >> index % 64) & 1) != (word == ALL))
            return "INV-BUDDY-3";
        pages += (uint32_t)__builtin_popcountll(word);
    }
    return pages == set->pages ? "" : "INV-BUDDY-1";
}
