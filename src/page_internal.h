/* SPDX-License-Identifier: MIT
 *
 * page_internal.h: what the files of the page layer share: page.c (runs), extent.c (free pages), hot.c, last.c,
 * zone.c (where pages come from), headroom.c, purge.c (what goes back), credit.c, page_repair.c.  Nobody else includes it.  All functions expect the page lock to be held.
 */
#ifndef QUARRY_PAGE_INTERNAL_H
#define QUARRY_PAGE_INTERNAL_H

#include "lock.h"
#include "page.h"
#include "purge.h"

/* A stretch of consecutive free pages, [start, end). */
struct extent {
    uintptr_t start, end;
};

enum { HOT_RUNS = 64, HOT_MAX_PAGES = 64 };

/* Shorter runs lie in one region: their heads are found without a look at another region.  Longer ones
 * may begin anywhere, for a region's end would cost them too much. */
#define RUN_CROSS_BYTES ((size_t)1 << 20)

static inline bool run_may_cross(size_t bytes) {
    return bytes >= RUN_CROSS_BYTES;
}

/* No longer ones have huge pages: most of a large block may never be written to. */
enum { HUGE_RUN_PAGES = 64 };

#define BOUND_MIN_PAGES ((size_t)256)

struct page_state {
    struct lock lock;
    size_t zone_pages, peak_zone_pages; /* pages that are ours, free or not */
    size_t dirty_pages, clean_pages;    /* in the buddy sets */
    size_t held_pages;                  /* free, in no set while the kernel purges */

    /* hot.c */
    struct extent hot[HOT_RUNS];        /* start 0: no entry */
    uint64_t hot_of[HOT_MAX_PAGES + 1]; /* by length: bit i says hot[i]; see page_runs_take */
    uint64_t hot_used;                  /* of any length */
    unsigned hot_next;                  /* the next entry to be written, of all ever */
    size_t hot_pages;                   /* with those of last */
    size_t hot_most_bytes; /* of such a run: HOT_MAX_PAGES; 0: none is kept whole, of any length */

    /* last.c */
    struct extent last; /* start 0: none */

    uint64_t kept_ns; /* keep.c: when it was last looked for what nobody wants */

    /* zone.c */
    uintptr_t break_start, break_top; /* zone 0; equal while it is empty */
    bool break_shared;                /* somebody else moved the break: it never shrinks again */
    uintptr_t zone_hint;              /* where the next mapped zone should go */
    size_t top_pad_bytes;
    bool top_pad_set;

    /* huge.c */
    size_t huge_percent; /* 0: none */
    bool huge_refused;

    /* headroom.c */
    size_t provided_pages; /* the peak of pages in use that there is headroom for */
    size_t headroom_percent;

    /* purge.c */
    size_t trim_threshold_bytes;
    size_t bound_least_pages; /* T is never lower */
    bool trim_threshold_set;
    bool purge_refused;
    uint64_t refused_ns;       /* when that was */
    size_t budget_pages;       /* B: earned by pages that were soon wanted again */
    size_t swept_live_pages;   /* most in use since pages last went */
    uint64_t excess_ns;        /* since when R exceeds T; 0: it does not */
    uint64_t fallen_ns;        /* when it was last seen that no excess is young (YOUTH) */
    uint64_t budget_ns;        /* when the budget was last looked at */
    size_t unwanted_pages;     /* dirty ones, least since then */
    size_t purged_outstanding; /* pages purged and not taken again */
    size_t purged_total, trimmed_total;
    size_t peak_pages;      /* most in use or dirty, when that was last looked at */
    size_t next_peak_pages; /* when it will be again */
    size_t peak_owed_pages; /* for which holes have not been searched yet */

    /* credit.c; relaxed, outside the lock */
    int64_t credit_ns;                     /* time that may be spent */
    uint64_t credited_cpu_ns, credited_ns; /* CPU time, and time, for which credit was given */
    uint64_t credit_retry_ns[PURGE_KINDS]; /* no use looking at the CPU time before */
    uint64_t growth_ns;                    /* earned by growth so far; under the lock */
};

extern struct page_state page_state;

/* extent.c: the free pages by address.  They end at the ends of regions. */

/* The list of the longest extent of a kind in the region of a rank (fit_longest); and the next region from
 * a rank on that has an extent of a list, as far as that tells; pagemap_region_count if there is none. */
unsigned extent_longest(uint32_t rank, enum fit_kind kind);
uint32_t extent_next_region(uint32_t rank, enum fit_kind kind, unsigned list);
void extent_forget(const struct region *region); /* its extents were cleared */

/* The free pages of one kind that begin or end with the page of an address. */
bool extent_beside(uintptr_t address, bool *dirty, struct extent *extent);
struct extent extent_holding(uintptr_t address); /* those that a free page lies in */
bool extent_clean(struct extent *extent);        /* a long one of clean pages, if there are any */
struct extent extent_around(uintptr_t address, size_t want_bytes, bool one_region, bool dirty_only);
size_t extent_remove(struct extent extent); /* returns how many of its pages were dirty */
void extent_insert(struct extent extent, bool dirty);
bool extent_find(size_t bytes, size_t align, struct extent *place);
bool extent_find_one(size_t bytes, size_t align, struct extent *place);   /* a dirty one, alone */
bool extent_find_dirty(size_t bytes, size_t align, struct extent *place); /* where no page faults */
bool extent_find_clean(size_t bytes, size_t align, struct extent *place);
bool extent_find_any(size_t bytes, size_t align, struct extent *place); /* looks everywhere */

/* page.c: stores the words that say what an extent is, in the order that a fork child needs. */
void run_set_heads(struct extent run, enum head_kind kind);

/* Whether a run may have this length there: short ones lie in one region (a slab has to). */
bool run_may_lie_at(uintptr_t address, size_t pages);

/* hot.c: runs of at most HOT_MAX_PAGES, kept whole. */
bool hot_take(size_t pages, size_t align_bytes, struct extent *run);
void hot_give(struct extent run);
bool hot_merge_all(void); /* those of last.c and keep.c too; false if there were none */
void hot_repair(void);    /* before the sets are rebuilt from the heads */

/* last.c: the run that came back last of those too long for hot.c. */
static inline size_t last_pages(void) { /* 0: there is none */
    return page_state.last.start ? (page_state.last.end - page_state.last.start) >> PAGE_SHIFT : 0;
}
struct extent last_take(size_t pages); /* from its front; it has so many */
bool last_give(struct extent run); /* free by its heads; false where it is merged as others are */
bool last_merge(void);

/* keep.c: pages of long runs for each of some threads, without the lock.  Take: 0, give: false, where it goes the usual way. */
extern bool keep_any;               /* there may be one */
void keep_note_taken(size_t pages); /* a long run, by the calling thread, the usual way */
void keep_note_given(size_t pages);
void keep_note_resized(size_t old_pages, size_t pages);

bool keep_give(uintptr_t address); /* of any run, or of none */

/* A run that is as long as the one that the thread has open gives its end to what is kept behind it, or takes it from there. */
bool keep_resize_long(uintptr_t address, size_t pages);
static ALWAYS_INLINE bool keep_resize(uintptr_t address, size_t pages) {
    return pages > HOT_MAX_PAGES && keep_resize_long(address, pages);
}

bool keep_leave(struct extent *kept); /* the calling thread's is ours now; false: it has none */
bool keep_merge(void);
bool keep_is_due(void); /* whether to call keep_merge_old; needs no lock */
void keep_merge_old(void);

/* zone.c: gets pages from the kernel so that an extent of at least pages at the alignment is free,
 * and says where; false where the kernel refuses. */
bool zone_grow(size_t pages, size_t align_bytes, struct extent *place);
bool zone_grow_break(size_t more_bytes, bool with_pad);
bool zone_add(size_t bytes); /* at least so many clean pages, anywhere */
struct extent zone_top(void);
size_t zone_trim_top(size_t pad_bytes); /* returns bytes given back */

/* R: in the sets and hot.  Needs no lock. */
static inline size_t purge_dirty_pages(void) {
    return LOAD_RELAXED(page_state.dirty_pages) + LOAD_RELAXED(page_state.hot_pages);
}

/* huge.c: makes a huge page of clean pages dirty if the share allows that; drops and retakes the lock. */
bool huge_fill(void);
void huge_retry(void); /* the kernel may not refuse any more */

/* headroom.c: to be called where more pages may be in use than ever before and purge_never() holds. */
void headroom_keep(void);
void headroom_forget(void); /* pages were given back all the same: the peak is counted anew */

/* credit.c: beside what purge.h has. */
void purge_spend_on_runs(uint64_t ns);
bool purge_debt_is_bearable(void);

/* purge.c */
size_t purge_bound_pages(void); /* needs no lock */
void purge_count_retaken(size_t clean_pages);
void purge_note_more(void); /* R may be above T, and nothing is to be given back now */
void purge_down(void);      /* drops and retakes the lock around each system call */
void purge_look_at_less(void);
bool purge_is_due(void);    /* page_settle_old; needs no lock */
void purge_end_youth(void); /* no excess is young for a while; gives one back now */

/* Free pages are taken, yet no block, while the lock is dropped; returns how many of them are dirty. */
size_t purge_hold(struct extent extent);
void purge_let_go(struct extent extent, bool dirty);

/* Clean pages were taken: up to the number purged, that was in vain. */
static inline void purge_note_taken(size_t clean_pages) {
    if (UNLIKELY(clean_pages && page_state.purged_outstanding))
        purge_count_retaken(clean_pages);
}

/* Whether nothing is to be given back: then what is dirty is used to the last page before the heap grows. */
static inline bool purge_never(void) {
    return page_state.trim_threshold_set && page_state.trim_threshold_bytes == SIZE_MAX;
}

/* To be called wherever pages may have become dirty. */
static inline void purge_excess(void) {
    if (UNLIKELY(purge_dirty_pages() > page_state.bound_least_pages))
        purge_down();
}

/* To be called wherever R may have fallen. */
static inline void purge_note_less(void) {
    if (UNLIKELY(page_state.excess_ns | page_state.budget_pages))
        purge_look_at_less();
}

size_t purge_all(void);

#endif
