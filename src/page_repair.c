/* SPDX-License-Identifier: MIT
 *
 * page_repair: figures of the page layer, its repair after a fork, and its verification.
 *
 * FORK     Authoritative are the head words.  Every page that none of them claims is free, and dirty,
 *          for nothing more is known of it.
 */
#include "page_internal.h"
#include "sizeclass.h"

#include <string.h>

#define S page_state

void page_count(struct page_counts *counts) {
    lock_take(&S.lock);
    keep_merge();
    size_t blocks = 0;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++)
        blocks +=
            buddy_blocks(&pagemap_ranked(rank)->dirty) + buddy_blocks(&pagemap_ranked(rank)->clean);
    struct extent top = zone_top();
    *counts = (struct page_counts){
        .zone_bytes = S.zone_pages << PAGE_SHIFT,
        .peak_zone_bytes = S.peak_zone_pages << PAGE_SHIFT,
        .dirty_bytes = (S.dirty_pages + S.hot_pages) << PAGE_SHIFT,
        .clean_bytes = S.clean_pages << PAGE_SHIFT,
        .top_bytes = top.end - top.start,
        .run_blocks = blocks,
        .purged_bytes = S.purged_total << PAGE_SHIFT,
        .trimmed_bytes = S.trimmed_total << PAGE_SHIFT,
        .purge_refused = S.purge_refused,
    };
    lock_drop(&S.lock);
}

size_t page_free_bytes(void) {
    size_t pages = purge_dirty_pages() + LOAD_RELAXED(S.clean_pages) + LOAD_RELAXED(S.held_pages);
    return pages << PAGE_SHIFT;
}

size_t page_returned_bytes(void) {
    return (LOAD_RELAXED(S.purged_total) + LOAD_RELAXED(S.trimmed_total)) << PAGE_SHIFT;
}

size_t page_dirty_bytes(void) {
    return purge_dirty_pages() << PAGE_SHIFT;
}

size_t page_live_bytes(void) {
    size_t zone_bytes = LOAD_RELAXED(S.zone_pages) << PAGE_SHIFT, free_bytes = page_free_bytes();
    return zone_bytes > free_bytes ? zone_bytes - free_bytes : 0;
}

/* Calls insert for each maximal stretch of free pages of a region; returns how many pages are ours. */
static size_t rebuild_region(struct region *region) {
    size_t ours = 0;
    memset(&region->dirty, 0, sizeof region->dirty);
    memset(&region->clean, 0, sizeof region->clean);
    fit_clear(&region->fit);
    extent_forget(region);
    for (unsigned page = 0; page < REGION_PAGES;) {
        uint32_t head = region->head[page];
        enum head_kind kind = head_kind(head);
        unsigned pages = 1;
        if (kind == HEAD_RUN || kind == HEAD_CONT)
            pages = (unsigned)min_size(head_argument(head), REGION_PAGES - page);
        if (kind == HEAD_FREE) {
            while (page + pages < REGION_PAGES &&
                   head_kind(region->head[page + pages]) == HEAD_FREE)
                pages++;
            uintptr_t start = region->base + ((uintptr_t)page << PAGE_SHIFT);
            extent_insert((struct extent){start, start + ((uintptr_t)pages << PAGE_SHIFT)}, true);
        }
        if (kind != HEAD_ABSENT)
            ours += pages;
        page += pages;
    }
    return ours;
}

void page_repair(void) {
    S.held_pages = 0; /* who had them is gone, and they leak */
    if (!lock_broken(&S.lock))
        return;
    pagemap_repair_regions();
    S.dirty_pages = S.clean_pages = S.zone_pages = 0;
    hot_repair();
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        S.zone_pages += rebuild_region(pagemap_ranked(rank));
        pagemap_repair_slots(pagemap_ranked(rank));
    }
    purge_begin_peaks(); /* all that is free counts as dirty now */
    lock_repair(&S.lock);
}

/* Whether a page lies in the slab that it names, and so do the page before it and the last one. */
static bool is_page_of_slab(struct region *region, unsigned page) {
    uint32_t head = region->head[page];
    const struct slab *slab = pagemap_slab(region, head);
    unsigned first = pagemap_page(region, slab->base);
    unsigned pages = sizeclass_pages(&size_classes[slab->class_index], slab->objects);
    return page - first < pages && region->head[first + pages - 1] == head &&
           (page == first || region->head[page - 1] == head);
}

/* Every page is free by its head word exactly if one buddy set holds it, or it is the last run's. */
static const char *verify_region(struct region *region) {
    unsigned run_end = 0;
    for (unsigned page = 0; page < REGION_PAGES; page++) {
        uint32_t head = region->head[page];
        enum head_kind kind = head_kind(head);
        if (page >= run_end && (kind == HEAD_RUN || kind == HEAD_CONT))
            run_end = page + (unsigned)min_size(head_argument(head), REGION_PAGES - page);
        uintptr_t address = region->base + ((uintptr_t)page << PAGE_SHIFT);
        bool is_last = S.last.start && address >= S.last.start && address < S.last.end;
        int held = buddy_has(&region->dirty, page) + buddy_has(&region->clean, page) + is_last;
        if (held != (kind == HEAD_FREE && page >= run_end))
            return "INV-MAP-2";
        bool in_slab = kind == HEAD_SLAB && page >= run_end;
        unsigned expected = in_slab ? pagemap_slab(region, head)->class_index : 0;
        size_t index = (address - pagemap_window.base) >> PAGE_SHIFT;
        unsigned class_index =
            index < pagemap_window.limit ? pagemap_window.class_map[index] : expected;
        bool of_run = kind == HEAD_RUN && sizeclass_is_run(class_index) &&
                      class_index == sizeclass_of_run(head_argument(head));
        if (class_index != expected && !of_run)
            return "INV-MAP-1";
        if (in_slab && !is_page_of_slab(region, page))
            return "INV-MAP-3";
    }
    return "";
}

const char *page_verify(void) {
    const char *broken = "";
    size_t dirty = 0, clean = 0;
    lock_take(&S.lock);
    for (uint32_t rank = 0; rank < pagemap_region_count && !*broken; rank++) {
        struct region *region = pagemap_ranked(rank);
        dirty += region->dirty.pages;
        clean += region->clean.pages;
        broken = buddy_verify(&region->dirty);
        if (!*broken)
            broken = buddy_verify(&region->clean);
        if (!*broken)
            broken = verify_region(region);
        if (!*broken)
            broken = fit_verify(&region->fit, &region->dirty, &region->clean);
        for (unsigned kind = 0; kind < 2 && !*broken; kind++)
            if (extent_longest(rank, (enum fit_kind)kind) !=
                fit_longest(&region->fit, (enum fit_kind)kind))
                broken = "INV-EXTENT-1";
    }
    if (!*broken && (dirty != S.dirty_pages || clean != S.clean_pages))
        broken = "INV-BUDDY-1";
    lock_drop(&S.lock);
    return broken;
}
