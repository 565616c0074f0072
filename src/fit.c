/* SPDX-License-Identifier: MIT
 *
 * fit: extents of free pages by length.
 *
 * PURPOSE  Best fit: a run is cut from the shortest extent that holds it, so that long extents stay
 *          long.  The buddy's blocks alone do not tell: an extent of 133 pages is eight blocks or so,
 *          and short runs that take the small ones among them would pierce it at both ends.
 *
 * LAYOUT   node[]  |5S|  |  |  |5 |..|2S|2 |..|1S|        S: FIT_START
 *                   ^ an extent of 5 pages     ^ of 1
 *          list[]  extents of 1, 2, ... 64 pages, then of 65-72, 73-80, ... 120-128, 129-144, ...
 *          A request looks at its own list, of which it takes the best of the first LOOKS, then at the
 *          next one that has a member.
 *
 * INVARIANTS
 *   INV-FIT-1  A page is in an extent of a kind if and only if it is in the buddy set of that kind.
 *   INV-FIT-2  No two extents of one kind are adjacent.
 *   INV-FIT-3  Tags of both ends agree, all other tags are 0; every extent is in the list of its
 *              length; occupied tells which lists have members.
 *
 * COST     insert and remove: a few loads and stores whatever the length; find: one list.
 *
 * FORK     Derived from the head words, as the buddy sets are (page_repair.c).
 */
#include "fit.h"

#include <string.h>

enum { LOOKS = 8 };

static unsigned bin_of(unsigned pages) {
    if (pages <= FIT_EXACT)
        return pages - 1;
    unsigned order = bit_highest(pages - 1); /* 6 .. 12 */
    return FIT_EXACT + (order - 6) * 8 + ((pages - 1) >> (order - 3)) - 8;
}

unsigned fit_list_for(unsigned pages) {
    return bin_of(pages) + 1;
}

static struct fit_extent extent_at(const struct fit *fit, unsigned first) {
    unsigned tag = fit->node[first].tag;
    return (struct fit_extent){first, tag & FIT_PAGES, tag & FIT_IS_CLEAN ? FIT_CLEAN : FIT_DIRTY};
}

static void link_extent(struct fit *fit, enum fit_kind kind, unsigned first, unsigned count) {
    unsigned bin = bin_of(count);
    uint16_t tag = (uint16_t)(count | (kind == FIT_CLEAN ? FIT_IS_CLEAN : 0));
    uint16_t *list = &fit->list[kind][bin];
    fit->node[first + count - 1].tag = tag;
    fit->node[first] = (struct fit_node){(uint16_t)(tag | FIT_START), *list, 0};
    if (*list)
        fit->node[*list - 1].prev = (uint16_t)(first + 1);
    *list = (uint16_t)(first + 1);
    fit->occupied[kind][bin / 64] |= (uint64_t)1 << (bin % 64);
}

static void unlink_extent(struct fit *fit, struct fit_extent extent) {
    struct fit_node node = fit->node[extent.first];
    unsigned bin = bin_of(extent.count);
    if (node.next)
        fit->node[node.next - 1].prev = node.prev;
    if (node.prev)
        fit->node[node.prev - 1].next = node.next;
    else if ((fit->list[extent.kind][bin] = node.next) == 0)
        fit->occupied[extent.kind][bin / 64] &= ~((uint64_t)1 << (bin % 64));
    fit->node[extent.first + extent.count - 1].tag = 0;
    fit->node[extent.first] = (struct fit_node){0, 0, 0};
}

void fit_clear(struct fit *fit) {
    memset(fit, 0, offsetof(struct fit, node));
    for (unsigned page = 0; page < BUDDY_PAGES; page++)
        if (fit->node[page].tag)
            fit->node[page] = (struct fit_node){0, 0, 0};
}

bool fit_beside(const struct fit *fit, unsigned page, struct fit_extent *found) {
    unsigned tag = fit->node[page].tag, count = tag & FIT_PAGES;
    if (count == 0)
        return false;
    *found = extent_at(fit, tag & FIT_START ? page : page - count + 1);
    return true;
}

void fit_insert(struct fit *fit, enum fit_kind kind, unsigned first, unsigned count) {
    struct fit_extent beside;
    unsigned end = first + count;
    quarry_assert(count > 0 && end <= BUDDY_PAGES);
    if (end < BUDDY_PAGES && fit_beside(fit, end, &beside) && beside.kind == kind) {
        unlink_extent(fit, beside);
        end += beside.count;
    }
    if (first > 0 && fit_beside(fit, first - 1, &beside) && beside.kind == kind) {
        unlink_extent(fit, beside);
        first = beside.first;
    }
    link_extent(fit, kind, first, end - first);
}

struct fit_extent fit_holding(const struct fit *fit, unsigned page) {
    struct fit_extent extent = {page, 0, FIT_DIRTY};
    while (!fit_beside(fit, page, &extent) && page > 0)
        page--;
    return extent;
}

/* The extent begins later, and stays where it is in its list. */
static void move_start(struct fit *fit, struct fit_extent extent, unsigned first) {
    struct fit_node node = fit->node[extent.first];
    uint16_t link = (uint16_t)(first + 1), cut = (uint16_t)(first - extent.first);
    fit->node[extent.first] = (struct fit_node){0, 0, 0};
    fit->node[extent.first + extent.count - 1].tag =
        (uint16_t)(fit->node[extent.first + extent.count - 1].tag - cut);
    fit->node[first] = (struct fit_node){(uint16_t)(node.tag - cut), node.next, node.prev};
    if (node.next)
        fit->node[node.next - 1].prev = link;
    if (node.prev)
        fit->node[node.prev - 1].next = link;
    else
        fit->list[extent.kind][bin_of(extent.count)] = link;
}

void fit_remove(struct fit *fit, struct fit_extent extent, unsigned first, unsigned count) {
    unsigned end = extent.first + extent.count;
    quarry_assert(extent.first <= first && first + count <= end);
    if (extent.first == first && extent.count - count > FIT_EXACT &&
        bin_of(extent.count - count) == bin_of(extent.count)) {
        move_start(fit, extent, first + count);
        return;
    }
    unlink_extent(fit, extent);
    if (extent.first < first)
        link_extent(fit, extent.kind, extent.first, first - extent.first);
    if (first + count < end)
        link_extent(fit, extent.kind, first + count, end - first - count);
}

/* The best of the first members of a list. */
static bool best_of(const struct fit *fit, enum fit_kind kind, unsigned bin, unsigned pages,
                    struct fit_extent *found) {
    bool any = false;
    unsigned next = fit->list[kind][bin];
    for (int look = 0; next && look < LOOKS; look++, next = fit->node[next - 1].next) {
        struct fit_extent extent = extent_at(fit, next - 1);
        bool better = !any || extent.count < found->count ||
                      (extent.count == found->count && extent.first < found->first);
        if (extent.count >= pages && better) {
            *found = extent;
            any = true;
        }
    }
    return any;
}

/* The next list from bin on that has a member; FIT_BINS if there is none. */
static unsigned next_list(const struct fit *fit, enum fit_kind kind, unsigned bin) {
    for (unsigned word = bin / 64; word < 2; word++) {
        uint64_t occupied = fit->occupied[kind][word];
        if (word == bin / 64)
            occupied &= ~bit_mask(bin % 64);
        if (occupied)
            return word * 64 + bit_lowest(occupied);
    }
    return FIT_BINS;
}

bool fit_find(const struct fit *fit, enum fit_kind kind, unsigned pages, struct fit_extent *found) {
    if (pages > BUDDY_PAGES)
        return false;
    for (unsigned bin = next_list(fit, kind, bin_of(pages)); bin < FIT_BINS;
         bin = next_list(fit, kind, bin + 1))
        if (best_of(fit, kind, bin, pages, found))
            return true;
    return false;
}

bool fit_next(const struct fit *fit, enum fit_kind kind, struct fit_walk *walk,
              struct fit_extent *found) {
    unsigned next = walk->page ? fit->node[walk->page - 1].next : 0;
    while (!next && walk->bins_done < FIT_BINS)
        next = fit->list[kind][FIT_BINS - ++walk->bins_done];
    walk->page = next;
    if (next)
        *found = extent_at(fit, next - 1);
    return next != 0;
}

/* ---- verification -------------------------------------------------------------------------------- */

/* Whether an extent is in the list of its length. */
static bool is_listed(const struct fit *fit, struct fit_extent extent) {
    unsigned bin = bin_of(extent.count), next = fit->list[extent.kind][bin];
    for (unsigned steps = 0; next && steps < BUDDY_PAGES; steps++) {
        if (next - 1 == extent.first)
            return true;
        next = fit->node[next - 1].next;
    }
    return false;
}

const char *fit_verify(const struct fit *fit, const struct buddy *dirty,
                       const struct buddy *clean) {
    unsigned extents = 0, members = 0;
    for (unsigned page = 0; page < BUDDY_PAGES;) {
        bool is_dirty = buddy_has(dirty, page), is_clean = buddy_has(clean, page);
        struct fit_extent extent;
        if (!is_dirty && !is_clean) {
            if (fit->node[page++].tag)
                return "INV-FIT-1";
            continue;
        }
        if (!(fit->node[page].tag & FIT_START) || !fit_beside(fit, page, &extent) ||
            extent.kind != (is_clean ? FIT_CLEAN : FIT_DIRTY))
            return "INV-FIT-2";
        const struct buddy *set = is_clean ? clean : dirty;
        unsigned end = page + extent.count;
        for (unsigned i = page; i < end; i++)
            if (!buddy_has(set, i) || (i > page && i < end - 1 && fit->node[i].tag))
                return "INV-FIT-1";
        if (end < BUDDY_PAGES && buddy_has(set, end))
            return "INV-FIT-2";
        if ((fit->node[end - 1].tag & FIT_PAGES) != extent.count || !is_listed(fit, extent))
            return "INV-FIT-3";
        extents++;
        page = end;
    }
    for (unsigned kind = 0; kind < 2; kind++)
        for (unsigned bin = 0; bin < FIT_BINS; bin++) {
            unsigned next = fit->list[kind][bin];
            if (((fit->occupied[kind][bin / 64] >> (bin % 64)) & 1) != (next != 0))
                return "INV-FIT-3";
            for (; next && members <= extents; next = fit->node[next - 1].next)
                members++;
        }
    return members == extents ? "" : "INV-FIT-3";
}
