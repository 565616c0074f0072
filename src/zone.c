/* SPDX-License-Identifier: MIT
 *
 * zone: where pages come from.
 *
 * PURPOSE  Grow the heap by the program break while that works, by mappings when it does not, and
 *          lower the break again when its top is free.
 *
 * TERMS    zone 0   [break_start, break_top): the break's part that is ours; one mapping, "[heap]"
 *          others   mappings at hints above the break, each growing where the last one ended, so
 *                   that the kernel sees one area
 *
 * LAYOUT   break_start ... break_top ... (room for 1 GiB) ... mapped zones ->
 *
 * STATES   break_shared: the program (or a library) called sbrk itself.  What it got stays absent
 *          in the page map, we go on above it, and the break never shrinks again, because its top
 *          may not be ours.
 *
 * INVARIANTS
 *   INV-ZONE-1  Only pages that the kernel gave to us enter the page map.
 *   INV-ZONE-2  Pages leave the page map before the break is lowered (a cut in between leaks).
 *
 * FORK     The child's break may differ from what this state, libc and the memory say (os_break_now);
 *          then the break counts as shared, and what lies between is not used.
 *
 * FAILURE  A refused growth is undone as far as possible and reported; nothing in use changes.
 */
#include "os.h"
#include "page_internal.h"

#define S page_state

enum { MAP_TRIES = 8 };

#define BREAK_ROOM ((uintptr_t)1 << 30)
#define ZONE_STEP ((size_t)1 << 20)
#define TOP_PAD_DEFAULT ((size_t)128 << 10)

void page_set_top_pad(size_t bytes) {
    lock_take(&S.lock);
    S.top_pad_bytes = bytes;
    S.top_pad_set = true;
    lock_drop(&S.lock);
}

/* What is asked for beyond the need: fewer calls for a large heap, little address space for a
 * small one.  A pad that was meant to be negative is none. */
static size_t growth_pad(void) {
    if (S.top_pad_set)
        return S.top_pad_bytes <= PTRDIFF_MAX ? S.top_pad_bytes : 0;
    return max_size(TOP_PAD_DEFAULT, (S.zone_pages << PAGE_SHIFT) / 32);
}

/* Enters [start, end) into the page map as clean pages. */
static bool enter(uintptr_t start, uintptr_t end) {
    if (!pagemap_cover(start, end))
        return false;
    for (uintptr_t at = start; at < end; at += PAGE_BYTES) {
        struct region *region = pagemap_region(at);
        pagemap_set_head(region, pagemap_page(region, at), head_make(HEAD_FREE, 0));
    }
    extent_insert((struct extent){start, end}, false);
    STORE_RELAXED(S.zone_pages, S.zone_pages + ((end - start) >> PAGE_SHIFT));
    if (S.zone_pages > S.peak_zone_pages) {
        purge_earn_growth(S.zone_pages - S.peak_zone_pages);
        S.peak_zone_pages = S.zone_pages;
    }
    return true;
}

/* Raises the break by at least more_bytes and enters what is ours of it. */
static bool raise_break(size_t more_bytes) {
    uintptr_t expected = S.break_top;
    uintptr_t now = (uintptr_t)os_break_now();
    if (!now)
        return false;
    size_t gap = round_up(now, os_page_bytes()) - now;
    size_t bytes = more_bytes + gap;
    uintptr_t old = (uintptr_t)os_break_grow(bytes);
    if (!old)
        return false;
    uintptr_t start = round_up(old, os_page_bytes()), end = round_down(old + bytes, PAGE_BYTES);
    if (expected && old != expected)
        S.break_shared = true;
    if (start < expected)
        start = expected; /* the break was lowered into our pages: never enter a page twice */
    if (start >= end || end >> ADDRESS_BITS || !enter(start, end)) {
        os_break_shrink((void *)(old + bytes), bytes);
        return false;
    }
    if (!S.break_start)
        S.break_start = start;
    S.break_top = end;
    return true;
}

bool zone_grow_break(size_t more_bytes, bool with_pad) {
    more_bytes = round_up(more_bytes, os_page_bytes());
    size_t padded = round_up(more_bytes + growth_pad(), os_page_bytes());
    if (with_pad && padded > more_bytes && raise_break(padded))
        return true;
    return raise_break(more_bytes);
}

struct extent zone_top(void) {
    struct extent top = {S.break_top, S.break_top}, block;
    bool dirty;
    while (top.start > S.break_start && extent_beside(top.start - 1, &dirty, &block))
        top.start = block.start;
    return top;
}

/* Where a run that starts at or after start may go: aligned, and in one region if it is short. */
static uintptr_t place_run(uintptr_t start, size_t bytes, size_t align) {
    start = round_up(start, align);
    if (!run_may_cross(bytes) &&
        round_down(start, REGION_BYTES) != round_down(start + bytes - 1, REGION_BYTES))
        start = round_up(start, max_size(REGION_BYTES, align));
    return start;
}

static bool grow_by_break(size_t bytes, size_t align, struct extent *place) {
    for (int i = 0; i < 3; i++) { /* more than once where others move the break */
        struct extent top = zone_top();
        uintptr_t start = place_run(top.start, bytes, align);
        if (top.end && start + bytes <= top.end) {
            *place = (struct extent){start, start + bytes};
            return true;
        }
        if (!top.end) {
            start = (uintptr_t)os_break_now();
            if (!start)
                return false;
            top.end = round_up(start, os_page_bytes());
            start = place_run(top.end, bytes, align);
        }
        if (!zone_grow_break(start + bytes - top.end, true))
            return false;
    }
    return false;
}

/* Whether it is the place that was refused. */
static bool can_map(size_t bytes) {
    void *anywhere = os_map(bytes);
    return anywhere && os_unmap(anywhere, bytes);
}

/* Maps bytes at the hint, else further up, else anywhere. */
static uintptr_t map_zone(size_t bytes) {
    if (!S.zone_hint) {
        uintptr_t base = S.break_start ? S.break_start : (uintptr_t)os_break_now();
        base = max_size(base, pagemap_window.base);
        S.zone_hint =
            round_up(max_size(base + BREAK_ROOM, S.break_top + BREAK_ROOM / 2), REGION_BYTES);
    }
    for (int i = 0; i < MAP_TRIES; i++) {
        uintptr_t hint = S.zone_hint + (i ? (BREAK_ROOM << i) : 0);
        if ((hint + bytes) >> ADDRESS_BITS)
            break;
        if (os_map_at((void *)hint, bytes)) {
            S.zone_hint = hint + bytes;
            return hint;
        }
        if (i == 0 && !can_map(bytes))
            return 0;
    }
    return (uintptr_t)os_map(bytes);
}

static bool grow_by_mapping(size_t bytes, size_t align, struct extent *place) {
    size_t slack = max_size(align, run_may_cross(bytes) ? 0 : bytes);
    size_t need = round_up(bytes + align + slack, os_page_bytes());
    size_t wish = round_up(max_size(need + growth_pad(), ZONE_STEP), os_page_bytes());
    uintptr_t start = map_zone(wish);
    if (!start) {
        wish = need;
        start = map_zone(wish);
    }
    if (!start)
        return false;
    if ((start + wish) >> ADDRESS_BITS || !enter(start, start + wish)) {
        os_unmap((void *)start, wish);
        return false;
    }
    uintptr_t at = place_run(start, bytes, align);
    *place = (struct extent){at, at + bytes};
    return true;
}

bool zone_grow(size_t pages, size_t align_bytes, struct extent *place) {
    size_t bytes = pages << PAGE_SHIFT;
    return grow_by_break(bytes, align_bytes, place) || grow_by_mapping(bytes, align_bytes, place);
}

bool zone_add(size_t bytes) {
    struct extent place;
    return zone_grow_break(bytes, S.top_pad_set) || grow_by_mapping(bytes, PAGE_BYTES, &place);
}

size_t zone_trim_top(size_t pad_bytes) {
    if (S.break_shared || S.break_top == S.break_start)
        return 0;
    struct extent top = zone_top();
    pad_bytes = round_up(min_size(pad_bytes, PTRDIFF_MAX), os_page_bytes());
    size_t have = top.end - top.start;
    if (have <= pad_bytes)
        return 0;
    uintptr_t start = round_up(top.start + pad_bytes, os_page_bytes());
    if (start >= top.end)
        return 0;
    if ((uintptr_t)os_break_now() != top.end) {
        S.break_shared = true;
        return 0;
    }
    struct extent gone = {start, top.end};
    size_t pages = (gone.end - gone.start) >> PAGE_SHIFT;
    size_t dirty = extent_remove(gone);
    for (uintptr_t at = gone.start; at < gone.end; at += PAGE_BYTES) {
        struct region *region = pagemap_region(at);
        pagemap_set_head(region, pagemap_page(region, at), head_make(HEAD_ABSENT, 0));
    }
    STORE_RELAXED(S.zone_pages, S.zone_pages - pages);
    S.break_top = gone.start;
    if (!os_break_shrink((void *)gone.end, gone.end - gone.start)) {
        S.break_top = gone.end; /* keep them: the same pages, as they were before or dirtier */
        enter(gone.start, gone.end);
        struct extent back = {gone.start, gone.end};
        extent_remove(back);
        extent_insert(back, true);
        return 0;
    }
    S.purged_outstanding += dirty;
    STORE_RELAXED(S.trimmed_total, S.trimmed_total + pages);
    return gone.end - gone.start;
}
