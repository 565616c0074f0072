/* SPDX-License-Identifier: MIT
 *
 * page.h: runs of pages.  A run is any number of consecutive pages; it is handed out whole and
 * given back whole, may be resized at its end, and is known by the address of its first page.
 * Thread-safe.  Sizes are pages of PAGE_BYTES.
 */
#ifndef QUARRY_PAGE_H
#define QUARRY_PAGE_H

#include "base.h"
#include "pagemap.h"

#define PAGE_RUN_MAX ((size_t)HEAD_ARGUMENT) /* pages: 1 TiB less one */

/* A run of this many pages at a multiple of align_bytes (a power of two, at least PAGE_BYTES).
 * *zero tells whether all of it is known to read as zero.  0 where the kernel refuses. */
uintptr_t page_run_take(size_t pages, size_t align_bytes, bool *zero);

/* A long run of so many pages from what the calling thread gives and takes in turn, none of which is known to read as zero;
 * 0 where there is none.  Takes no lock. */
uintptr_t page_run_take_kept(size_t pages, size_t align_bytes);

/* A run with free pages at both ends: where it and the one before it have room to grow.  0 where there is no
 * such place, and where nothing is given back: dirty pages are worth more then than room. */
uintptr_t page_run_take_roomy(size_t pages);

/* The length of the allocated run that starts at an address; 0 if none starts there. */
static inline size_t page_run_pages(uintptr_t address) {
    uint32_t head = pagemap_head(address);
    return address % PAGE_BYTES == 0 && head_kind(head) == HEAD_RUN ? head_argument(head) : 0;
}

/* Gives a run back, and to the kernel what exceeds the bound.  False, and nothing done, if no
 * allocated run starts at the address. */
bool page_run_give(uintptr_t address);

/* Runs with the class of their length (pagemap.h), many at once: as many, at most, as were given back whole a moment ago;
 * none of them reads as zero.  Returns how many. */
unsigned page_runs_take(size_t pages, void **runs, unsigned most);

/* Gives such runs back, up to one that is none of so many pages.  Returns how many. */
unsigned page_runs_give(size_t pages, void *const *runs, unsigned count);

/* Cuts the run to fewer pages / extends it in place; false, and nothing done, where that is not
 * possible. */
bool page_run_shrink(uintptr_t address, size_t pages);
bool page_run_extend(uintptr_t address, size_t pages);

/* The start of the allocated run that an address lies in, and its length; 0 if in none.  Slow. */
uintptr_t page_run_around(uintptr_t address, size_t *pages);

/* Turns an allocated run into a slab of free objects, which the caller lists and counts; NULL (the run
 * stays a run) if its region has no descriptor left. */
struct slab *page_slab_open(uintptr_t address, size_t pages, unsigned class_index, unsigned shard,
                            unsigned objects, bool zero);

/* Gives a slab's pages back; nothing goes to the kernel before page_settle, which the caller calls
 * when it holds no lock. */
void page_slab_close(struct slab *slab, size_t pages);
void page_settle(void);

/* The same where more has been free and resident than page_trim_bound says for a second, and where that bound
 * is to fall.  To be called now and then; else it takes no lock. */
void page_settle_old(void);

/* Whether page_settle_old may have much to do, now or later. */
bool page_waits(void);

/* The objects of a class have fallen to half: the heap empties, and an excess goes at once. */
void page_note_fall(void);

/* Gives back all free pages and the top of the break except for pad bytes; returns the bytes. */
size_t page_trim(size_t pad_bytes);

/* Gives back at least so many dirty bytes, if there are. */
void page_purge(size_t bytes);

/* How many pages of holes may go now, for what is in use or dirty has grown to a peak; else 0.  Takes no lock then. */
size_t page_peak_due(void);

/* Policy, in bytes: see "What is given back" in purge.c.  Set by options before the first run or
 * at any time later. */
void page_set_trim_threshold(size_t bytes); /* SIZE_MAX: never give back */
void page_set_top_pad(size_t bytes);
/* Makes the free pages resident that were used before. */
void page_make_resident(void);
/* Where nothing is given back: of the most pages ever in use. */
void page_set_headroom(size_t percent);
/* Percent of the pages in use that free pages may be resident for the sake of huge ones; 0: no huge pages. */
void page_set_huge_share(size_t percent);
size_t page_trim_bound(void);             /* the bound in force now; takes no lock */
bool page_trim_threshold_set(void);       /* by the user; takes no lock */
size_t page_hole_bound(size_t otherwise); /* the threshold if the user set it */

struct page_counts {
    size_t zone_bytes; /* obtained from the kernel for runs */
    size_t peak_zone_bytes;
    size_t dirty_bytes;   /* free, used before */
    size_t clean_bytes;   /* free, not resident */
    size_t top_bytes;     /* free at the top of the break */
    size_t run_blocks;    /* free blocks, both kinds */
    size_t purged_bytes;  /* given back by madvise since start */
    size_t trimmed_bytes; /* given back by lowering the break since start */
    bool purge_refused;   /* the kernel kept pages (mlockall): the bound is suspended */
};

void page_count(struct page_counts *counts);

/* Bytes in allocated runs, and in free pages; relaxed reads, for budgets. */
size_t page_live_bytes(void);
size_t page_free_bytes(void);
size_t page_dirty_bytes(void);    /* of these, the resident ones */
size_t page_returned_bytes(void); /* given back to the kernel since start */

/* Fork repair: rebuilds the buddy sets from the head words if another thread was cut in here. */
void page_repair(void);

/* Empty string, or the first invariant that does not hold.  For tests; takes the page lock. */
const char *page_verify(void);

#endif
