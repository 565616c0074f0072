/* SPDX-License-Identifier: MIT
 *
 * buddy: free pages as aligned power-of-two blocks (Knowlton 1965; Knuth, TAOCP 1, 2.5).
 *
 * TERMS    A block of order o is 2^o pages, its first page a multiple of 2^o.  Its buddy is the
 *          block whose first page differs in bit o only; both together are a block of order o+1.
 *
 * LAYOUT   One bit per possible block, order after order:
 *            words[0..127]   order 0, 8 192 bits     busy[0]: which of those words are not 0
 *            words[128..191] order 1, 4 096 bits     busy[1]
 *            ...             (orders 6 and up need one word or two)
 *          A search is: lowest bit of `orders`, of `busy`, of the word.  No links: freed memory is
 *          never touched, and 2.3 KiB describe 32 MiB.
 *
 * INVARIANTS
 *   INV-BUDDY-1  No page is in two blocks.
 *   INV-BUDDY-2  No two buddies are both blocks of the set (they would have been merged).
 *   INV-BUDDY-3  pages, orders, count and busy agree with the bits.
 *
 * COST     insert: one step per order merged and per aligned piece of the range (at most 2 * 13).
 *
 * WHY NOT  Links inside free pages: reading them faults purged pages in, and a stray write into
 *          freed memory would steer the allocator.
 */
#include "buddy.h"

static const uint16_t first_word[BUDDY_ORDERS] = {0,   128, 192, 224, 240, 248, 252,
                                                  254, 255, 256, 257, 258, 259, 260};

static bool test(const struct buddy *set, unsigned order, unsigned index) {
    return (set->words[first_word[order] + index / 64] >> (index % 64)) & 1;
}

static void set_bit(struct buddy *set, unsigned order, unsigned index) {
    unsigned word = index / 64;
    set->words[first_word[order] + word] |= (uint64_t)1 << (index % 64);
    set->busy[order][word / 64] |= (uint64_t)1 << (word % 64);
    set->orders |= 1u << order;
    set->count[order]++;
    set->pages += 1u << order;
}

static void clear_bit(struct buddy *set, unsigned order, unsigned index) {
    unsigned word = index / 64;
    uint64_t *bits = &set->words[first_word[order] + word];
    quarry_assert(test(set, order, index));
    *bits &= ~((uint64_t)1 << (index % 64));
    if (*bits == 0)
        set->busy[order][word / 64] &= ~((uint64_t)1 << (word % 64));
    if (--set->count[order] == 0)
        set->orders &= ~(1u << order);
    set->pages -= 1u << order;
}

static void insert_block(struct buddy *set, unsigned page, unsigned order) {
    while (order < BUDDY_MAX_ORDER && test(set, order, (page >> order) ^ 1)) {
        clear_bit(set, order, (page >> order) ^ 1);
        page &= ~(1u << order);
        order++;
    }
    set_bit(set, order, page >> order);
}

void buddy_insert(struct buddy *set, unsigned first, unsigned count) {
    quarry_assert(first + count <= BUDDY_PAGES);
    while (count > 0) {
        unsigned order = bit_highest(count);
        if (first != 0 && bit_lowest(first) < order)
            order = bit_lowest(first);
        insert_block(set, first, order);
        first += 1u << order;
        count -= 1u << order;
    }
}

int buddy_next(const struct buddy *set, unsigned order, unsigned from) {
    unsigned index = (from + (1u << order) - 1) >> order;
    if (index >= (unsigned)BUDDY_PAGES >> order)
        return -1;
    unsigned word = index / 64;
    const uint64_t *words = &set->words[first_word[order]];
    uint64_t here = words[word] & ~bit_mask(index % 64);
    if (here)
        return (int)((word * 64 + bit_lowest(here)) << order);
    for (unsigned half = (word + 1) / 64; half < 2; half++) {
        uint64_t busy = set->busy[order][half];
        if (half == (word + 1) / 64)
            busy &= ~bit_mask((word + 1) % 64);
        if (busy) {
            word = half * 64 + bit_lowest(busy);
            return (int)((word * 64 + bit_lowest(words[word])) << order);
        }
    }
    return -1;
}

unsigned buddy_last(const struct buddy *set, unsigned order) {
    unsigned half = set->busy[order][1] ? 1 : 0;
    unsigned word = half * 64 + bit_highest(set->busy[order][half]);
    return (word * 64 + bit_highest(set->words[first_word[order] + word])) << order;
}

int buddy_find(const struct buddy *set, unsigned min_order, unsigned *order) {
    uint32_t orders = set->orders >> min_order << min_order;
    if (orders == 0)
        return -1;
    *order = bit_lowest(orders);
    return buddy_next(set, *order, 0);
}

int buddy_holding(const struct buddy *set, unsigned page, unsigned *first) {
    for (uint32_t orders = set->orders; orders; orders &= orders - 1) {
        unsigned order = bit_lowest(orders);
        if (test(set, order, page >> order)) {
            *first = page >> order << order;
            return (int)order;
        }
    }
    return -1;
}

void buddy_remove(struct buddy *set, unsigned first, unsigned count) {
    for (unsigned page = first, end = first + count; page < end;) {
        unsigned start = 0;
        int order = buddy_holding(set, page, &start);
        quarry_assert(order >= 0);
        unsigned stop = start + (1u << order);
        clear_bit(set, (unsigned)order, start >> order);
        if (start < page)
            buddy_insert(set, start, page - start);
        if (end < stop)
            buddy_insert(set, end, stop - end);
        page = stop;
    }
}

unsigned buddy_order_for(size_t count) {
    return count <= 1 ? 0 : bit_highest(count - 1) + 1;
}

/* busy tells exactly which words of the order are not 0. */
static bool busy_agrees(const struct buddy *set, unsigned order) {
    unsigned words = (((unsigned)BUDDY_PAGES >> order) + 63) / 64;
    for (unsigned word = 0; word < 128; word++) {
        bool expected = word < words && set->words[first_word[order] + word] != 0;
        if (((set->busy[order][word / 64] >> (word % 64)) & 1) != expected)
            return false;
    }
    return true;
}

const char *buddy_verify(const struct buddy *set) {
    uint32_t pages = 0, orders = 0;
    uint64_t seen[BUDDY_PAGES / 64] = {0};
    for (unsigned order = 0; order < BUDDY_ORDERS; order++) {
        uint32_t count = 0;
        for (unsigned index = 0; index < (unsigned)BUDDY_PAGES >> order; index++) {
            if (!test(set, order, index))
                continue;
            count++;
            if (order < BUDDY_MAX_ORDER && test(set, order, index ^ 1))
                return "INV-BUDDY-2";
            for (unsigned page = index << order; page < (index + 1) << order; page++) {
                if ((seen[page / 64] >> (page % 64)) & 1)
                    return "INV-BUDDY-1";
                seen[page / 64] |= (uint64_t)1 << (page % 64);
            }
        }
        if (count != set->count[order] || !busy_agrees(set, order))
            return "INV-BUDDY-3";
        pages += count << order;
        orders |= count ? 1u << order : 0;
    }
    return pages == set->pages && orders == set->orders ? "" : "INV-BUDDY-3";
}
