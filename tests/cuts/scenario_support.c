/* SPDX-License-Identifier: MIT */
#include "scenario_support.h"

#include "cache.h"
#include "cut_support.h"
#include "ledger_support.h"
#include "meta.h"
#include "page_internal.h"
#include "slab_internal.h"

#include <pthread.h>

enum { ROOM = LEDGER_CUT_EACH };

/* ---- What several scenarios begin with --------------------------------------------------------- */

static void nothing(void) {
}

static void nothing_first(unsigned first) {
    (void)first;
}

/* Blocks of all kinds, with gaps between them. */
static void setup_mix(void) {
    static const size_t size[] = {16, 40, 64, 200, 600, 1024, 3000, 9000, 20000, 50000, 130000};
    for (unsigned i = 0; i < 99; i++)
        ledger_take(LEDGER_SETUP + i, size[i % COUNT_OF(size)]);
    ledger_give_many(LEDGER_SETUP + 3, 90, 4);
}

static void setup_runs_only(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    setup_mix();
}

/* Gives the thread a cache. */
static void warm_cache(unsigned first) {
    ledger_take(first + ROOM - 1, 24);
}

/* Earns a full bin of a class, and leaves it and the slabs half used. */
static void earn(unsigned first, size_t size) {
    for (unsigned i = 0; i < 24; i++) {
        ledger_take_many(first, 100, size);
        ledger_give_many(first, 100, 1);
    }
}

/* ---- Slabs and caches -------------------------------------------------------------------------- */

static void *use_and_end(void *unused) {
    (void)unused;
    earn(LEDGER_CUT, 64);
    return NULL;
}

static void setup_unused_cache(void) {
    pthread_t thread;
    setup_mix();
    must(pthread_create(&thread, NULL, use_and_end, NULL) == 0);
    must(pthread_join(thread, NULL) == 0);
}

static void run_first_slab(unsigned first) {
    ledger_take(first, 230);
}

static void run_first_allocation(unsigned first) {
    ledger_take(first, 100);
}

static void warm_64(unsigned first) {
    warm_cache(first);
    earn(first, 64);
}

static void run_refill(unsigned first) {
    ledger_take_many(first, 150, 64);
}

static void warm_spill(unsigned first) {
    warm_64(first);
    ledger_take_many(first, 300, 64);
}

static void run_spill(unsigned first) {
    ledger_give_many(first, 300, 2);
    ledger_give_many(first + 1, 299, 2);
}

static void warm_close(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 60, 1024);
}

static void run_close(unsigned first) {
    ledger_give_many(first, 60, 1);
    ledger_take_many(first, 10, 1024);
    ledger_give_many(first, 10, 1);
}

static void wait_at_home(void) {
    uint32_t shard = slab_home.shard;
    while (slab_home.shard == shard)
        slab_shard_waited(shard);
}

/* Slabs that nobody has used for a while. */
static void warm_shard(unsigned first) {
    warm_cache(first);
    cache_set_capacity_limit(0);
    ledger_take_many(first, 60, 1024);
    ledger_give_many(first, 40, 2);
    for (unsigned i = 0; i < CLASS_COUNT; i++)
        slab_classes[i].in_use = 0;
}

static void run_shard(unsigned first) {
    wait_at_home();
    ledger_take_many(first + 100, 20, 1024);
    ledger_give_many(first + 41, 19, 1);
    ledger_give_many(first + 100, 20, 2);
    wait_at_home();
    ledger_take_many(first + 41, 19, 1024);
}

static void run_capacity(unsigned first) {
    for (unsigned i = 0; i < 5; i++) {
        ledger_take_many(first, 40, 32);
        ledger_give_many(first, 40, 1);
    }
}

/* Shortly before the second look for idle bins since the bin of 64 bytes was last used. */
static void warm_idle(unsigned first) {
    warm_64(first);
    cache_set_capacity_limit(0); /* from here on every call is a slow one */
    while (cache_tls->ticks < 2 * 1024 - 4) {
        ledger_take(first, 9000);
        ledger_give(first);
    }
}

static void run_idle(unsigned first) {
    for (unsigned i = 0; i < 6; i++) {
        ledger_take(first + i, 9000);
        ledger_take(first + 10 + i, 64);
    }
}

static void warm_exit(unsigned first) {
    static const size_t size[] = {16, 64, 200, 1024, 4000};
    for (unsigned i = 0; i < COUNT_OF(size); i++)
        earn(first, size[i]);
}

/* ---- Runs -------------------------------------------------------------------------------------- */

static void warm_runs(unsigned first) {
    warm_cache(first);
    for (unsigned i = 0; i < 10; i++)
        ledger_take(first + i, 20000 + 7000 * i);
}

static void run_merge(unsigned first) {
    ledger_give_many(first, 10, 2);
    ledger_take(first, 30000);
    ledger_give_many(first + 1, 9, 2);
    ledger_take(first + 1, 100000);
    ledger_take_aligned(first + 2, 65536, 40000);
    ledger_give_many(first, 3, 1);
}

static void run_resize(unsigned first) {
    static const size_t size[] = {60000, 24000, 120000, 300000, 17000, 18000, 90000, 100, 40000};
    for (unsigned i = 0; i < COUNT_OF(size); i++)
        ledger_resize(first + 3, size[i]);
    ledger_take(first + 12, 150000);
    for (size_t bytes = 150000; bytes <= 200000;
         bytes += 10000) { /* in each other's way, which leads to roomy places */
        ledger_resize(first + 3, bytes);
        ledger_resize(first + 12, bytes);
    }
}

static void warm_cached(unsigned first) {
    warm_cache(first);
    for (unsigned i = 0; i < 70; i++) { /* 64 earn a place for six */
        ledger_take(first, 20000);
        ledger_give(first);
    }
}

/* They are cached, spill, are taken, change their class, and are dropped where none may be cached any more. */
static void run_cached(unsigned first) {
    ledger_take_many(first, 9, 20000);
    ledger_give_many(first, 9, 1);
    ledger_take_many(first, 4, 20000);
    ledger_resize(first, 40000);
    ledger_resize(first, 18000);
    ledger_give_many(first, 4, 1);
    cache_rules_changed();
    cache_set_size_limit(16384);
    cache_rules_changed();
    ledger_take(first, 20000);
}

static void warm_hot(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 40, 20000);
}

static void run_hot(unsigned first) {
    ledger_give_many(first, 40, 2);
    ledger_take_many(first + 100, 3, 20000);
    ledger_give_many(first + 1, 3, 2);
    ledger_take(first + 103, 24000);
    ledger_give_many(first + 5, 35, 2);
    ledger_take(first + 104, 300000);
}

static void setup_two_regions(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    quarry_mallopt(M_TRIM_THRESHOLD, -1);
    setup_mix();
    void *block = quarry_malloc(80 * MIB);
    must(block != NULL);
    quarry_free(block);
}

static void run_two_regions(unsigned first) {
    ledger_take(first, 40 * MIB);
    ledger_resize(first, 50 * MIB);
    ledger_resize(first, 45 * MIB);
    ledger_resize(first, 10 * MIB);
    ledger_resize(first, 48 * MIB);
    ledger_give(first);
    ledger_take_many(first, 3, 10 * MIB);
    ledger_give_many(first, 3, 1);
}

/* The peak rises: headroom is taken from what is clean, and from the break. */
static void setup_headroom(void) {
    setup_runs_only();
    quarry_mallopt(M_TRIM_THRESHOLD, -1);
}

static void run_headroom(unsigned first) {
    ledger_take_many(first, 3, 700000);
    ledger_give(first + 1);
    ledger_resize(first, 1500000);
    ledger_take(first + 3, 900000);
}

/* ---- Growth and return ------------------------------------------------------------------------- */

static void run_grow(unsigned first) {
    ledger_take_many(first, 6, 90000);
    ledger_give_many(first, 6, 1);
}

static void share_break(unsigned first) {
    warm_cache(first);
    must(sbrk(10000) != (void *)-1);
}

/* Fills the zone up to shortly before the end of its region. */
static void setup_region_end(void) {
    setup_runs_only();
    size_t room = REGION_BYTES - page_state.break_top % REGION_BYTES;
    if (room < MIB)
        room += REGION_BYTES;
    ledger_take(LEDGER_SETUP + 200, room - 400 * KIB);
}

static void refuse_break(unsigned first) {
    warm_cache(first);
    atomic_store(&cut_refused, REFUSE_RAISING_BREAK);
}

static void run_grow_mapped(unsigned first) {
    ledger_take_many(first, 3, 400000);
    ledger_give(first + 1);
    ledger_take(first + 1, 600000);
}

static void setup_trim_top(void) {
    setup_runs_only();
    quarry_mallopt(M_TRIM_THRESHOLD, 64 * 1024);
    quarry_mallopt(M_TOP_PAD, 4096);
}

static void warm_trim_top(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 20, 40000);
}

static void run_give_downwards(unsigned first) {
    for (unsigned i = 20; i-- > 0;)
        ledger_give(first + i);
    ledger_take_many(first, 3, 100000);
}

static void run_give_some(unsigned first) {
    ledger_give_many(first + 16, 4, 1);
}

static void warm_unlowered(unsigned first) {
    warm_trim_top(first);
    atomic_store(&cut_refused, REFUSE_LOWERING_BREAK);
}

static void warm_purge(unsigned first) {
    warm_trim_top(first);
    ledger_take(first + 20, 64);
    ledger_take(first + 21, 200000);
}

static void warm_unpurged(unsigned first) {
    warm_purge(first);
    atomic_store(&cut_refused, REFUSE_PURGING);
}

static void run_purge(unsigned first) {
    ledger_give_many(first, 20, 3);
    ledger_take_zero(first, 36000);
    ledger_give_many(first + 1, 18, 3);
    ledger_give_many(first + 2, 18, 3);
}

/* Enough holes that a class is searched for them by itself. */
static void warm_fall(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 130, 7000);
}

static void run_fall(unsigned first) {
    for (unsigned i = 0; i < 130; i++)
        if (i % 8 != 0)
            ledger_give(first + i);
    ledger_take_many(first + 1, 7, 7000);
}

static void warm_holes(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 450, 272);
    for (unsigned i = 0; i < 450; i++)
        if (i % 60 >= 3)
            ledger_give(first + i);
}

/* One object of each slab lives; its neighbour, which shares a page with it, was used again after a purge. */
static void warm_holes_again(unsigned first) {
    warm_cache(first);
    ledger_take_many(first, 16, 7000);
    for (unsigned i = 0; i < 16; i++)
        if (i % 8 != 0)
            ledger_give(first + i);
    quarry_malloc_trim(0);
    ledger_take_many(first + 20, 8, 7000);
    ledger_give_many(first + 20, 8, 1);
}

static void run_trim(unsigned first) {
    (void)first;
    quarry_malloc_trim(0);
}

static void warm_everything(unsigned first) {
    warm_exit(first);
    warm_runs(first);
    ledger_take_many(first + 50, 20, 40000);
    ledger_give_many(first, 10, 2);
    ledger_give_many(first + 50, 20, 3);
}

/* ---- Mappings and tables ----------------------------------------------------------------------- */

static void run_mappings(unsigned first) {
    ledger_take(first, MIB);
    ledger_take_aligned(first + 1, 2 * MIB, 300000);
    ledger_resize(first, 3 * MIB);
    ledger_take_zero(first + 2, MIB);
    ledger_resize(first, MIB / 2);
    ledger_give_many(first, 3, 1);
}

static void setup_many_mappings(void) {
    setup_mix();
    quarry_mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    ledger_take_many(LEDGER_SETUP + 200, 40, 200000);
    ledger_give_many(LEDGER_SETUP + 200, 40, 4);
}

static void run_many_mappings(unsigned first) {
    ledger_take_many(first, 20, 140000);
    ledger_give_many(first, 20, 2);
}

enum { META_BLOCKS = 12 };

static void run_meta(unsigned first) {
    void *block[META_BLOCKS];
    (void)first;
    for (unsigned i = 0; i < META_BLOCKS; i++) {
        block[i] = meta_take(META_BLOCK_MAX);
        must(block[i] != NULL && all_zero(block[i], META_BLOCK_MAX));
    }
    for (unsigned i = 0; i < META_BLOCKS; i++)
        meta_give(block[i], META_BLOCK_MAX);
    block[0] = meta_take(META_BLOCK_MAX);
    must(block[0] != NULL && all_zero(block[0], META_BLOCK_MAX));
    meta_give(block[0], META_BLOCK_MAX);
    block[1] = meta_take(100 * KIB);
    must(block[1] != NULL);
    meta_give(block[1], 100 * KIB);
}

#define KEPT (256 * KIB) /* what a few slabs and a thread's hands hold */

const struct scenario scenarios[] = {
    {"the first allocation of the process", nothing, nothing_first, run_first_allocation, false,
     100, KEPT},
    {"a thread's cache is made", setup_mix, nothing_first, run_first_allocation, false, 100, KEPT},
    {"a thread takes over a cache", setup_unused_cache, nothing_first, run_first_allocation, false,
     100, KEPT},
    {"the first slab of a class", setup_mix, warm_cache, run_first_slab, false, 230, KEPT},
    {"a bin is refilled", setup_mix, warm_64, run_refill, false, 64, KEPT},
    {"a bin spills", setup_mix, warm_spill, run_spill, false, 64, KEPT},
    {"a slab is emptied and closed", setup_mix, warm_close, run_close, false, 1024, KEPT},
    {"a shard is made, and takes slabs over", setup_mix, warm_shard, run_shard, false, 1024, KEPT},
    {"a bin earns capacity", setup_mix, warm_cache, run_capacity, false, 32, KEPT},
    {"idle bins lose their capacity", setup_mix, warm_idle, run_idle, false, 64, KEPT},
    {"a thread ends", setup_mix, warm_exit, nothing_first, true, 200, KEPT},
    {"runs are taken, given and merged", setup_mix, warm_runs, run_merge, false, 30000, KEPT},
    {"runs are cached, and spill", setup_mix, warm_cached, run_cached, false, 20000, KEPT},
    {"runs are hot, and no longer", setup_runs_only, warm_hot, run_hot, false, 20000,
     KEPT + 304 * KIB},
    {"a long run is kept whole, cut and joined", setup_last, warm_last, run_last, false, 600000,
     KEPT + 2 * MIB},
    {"so is one that crosses regions", setup_last_crossing, warm_cache, run_last_crossing, false, 0,
     51 * MIB},
    {"a long run is kept for its thread", setup_kept, warm_kept, run_kept, false, 400000,
     KEPT + 720000},
    {"a run is extended and cut", setup_runs_only, warm_runs, run_resize, false, 60000,
     KEPT + 300000},
    {"runs cross regions", setup_two_regions, warm_cache, run_two_regions, false, 0, 160 * MIB},
    {"headroom is obtained", setup_headroom, warm_cache, run_headroom, false, 700000, 8 * MIB},
    {"a huge page is filled", setup_huge, warm_cache, run_huge, false, 100000, 4 * MIB},
    {"the heap grows by the break", setup_runs_only, warm_cache, run_grow, false, 100000, 3 * MIB},
    {"the break enters another region", setup_region_end, warm_cache, run_grow, false, 100000,
     3 * MIB},
    {"others move the break", setup_runs_only, share_break, run_grow, false, 100000, 3 * MIB},
    {"the heap grows by mappings", setup_runs_only, refuse_break, run_grow_mapped, false, 400000,
     4 * MIB},
    {"the break is lowered", setup_trim_top, warm_trim_top, run_give_downwards, false, 40000,
     2 * MIB},
    {"the break cannot be lowered", setup_trim_top, warm_unlowered, run_give_some, false, 40000,
     2 * MIB},
    {"dirty pages cannot be purged", setup_trim_top, warm_unpurged, run_purge, false, 40000,
     2 * MIB},
    {"dirty pages are purged", setup_trim_top, warm_purge, run_purge, false, 40000, 2 * MIB},
    {"a class falls, and is searched for holes", setup_mix, warm_fall, run_fall, false, 7000, KEPT},
    {"the heap grows to a peak", setup_peak, warm_cache, run_peak, false, 500, KEPT},
    {"a sleeper's cache is drained", setup_drain, warm_cache, run_drain, false, 64, KEPT},
    {"freed blocks wait", setup_quarantine, warm_cache, run_quarantine, false, 1000, KEPT},
    {"a mode begins", setup_mix, warm_close, run_mode, false, 1000, KEPT},
    {"holes in slabs are purged", setup_mix, warm_holes, run_trim, false, 272, KEPT},
    {"holes beside purged ones go", setup_mix, warm_holes_again, run_trim, false, 7000, KEPT},
    {"everything is trimmed", setup_runs_only, warm_everything, run_trim, false, 200, 2 * MIB},
    {"mappings are made, resized and unmapped", setup_mix, warm_cache, run_mappings, false, 2 * MIB,
     10 * MIB},
    {"the table of mappings grows", setup_many_mappings, warm_cache, run_many_mappings, false,
     140000, MIB},
    {"tables take memory", setup_mix, warm_cache, run_meta, false, 64, KEPT},
    {"a block moves between all kinds", setup_mix, warm_cache, run_moves, false, 5000, 5 * MIB},
    {"anything at random", setup_mix, warm_cache, run_anything, false, 300, 2 * MIB},
};

const unsigned scenario_count = COUNT_OF(scenarios);

const struct scenario *scenario_named(const char *name) {
    for (unsigned i = 0; i < scenario_count; i++)
        if (strcmp(scenarios[i].name, name) == 0)
            return &scenarios[i];
    must(!"a scenario of that name");
    return NULL;
}
