/* SPDX-License-Identifier: MIT
 *
 * cache_runs: what differs for runs in the threads' caches.
 *
 * PURPOSE  Buffers of 20 to 250 kB that come and go take neither the page lock nor a search.
 *
 * LAYOUT   A run whose length has a class (sizeclass.h) has that class in the class map, at its first page, as
 *          long as it is a block or cached; its head is HEAD_RUN all the while.  So free pushes it as it
 *          pushes an object.  Where its length changes the class goes first and comes back last.
 *
 * RULES    A bin gives the page layer a few runs at once, as it gives the slabs objects, and takes a few that were given back
 *          whole a moment ago; where there are none, the one that is wanted.  Capacity is earned by taking alone: who only frees
 *          would fill a cache that nobody takes from.  The budget for runs is counted apart from that for objects
 *          (cache_capacity.c): 128 KiB or one run of each length by use, a MiB by regret; beyond the budget one run, which was
 *          live a moment ago.  Where the user has set how much may stay dirty (M_TRIM_THRESHOLD) none are
 *          kept: what is cached is not dirty, and -1 has room for large requests.
 *
 * FORK     A cut between the class and the head leaves a run without a class, which is freed by its head.
 */
#include "cache_internal.h"
#include "page.h"
#include "report.h"

enum slab_status cache_return(unsigned class_index, void *const *objects, unsigned count,
                              unsigned *culprit) {
    if (!sizeclass_is_run(class_index))
        return slab_give(class_index, objects, count, culprit);
    *culprit = page_runs_give(size_classes[class_index].pages, objects, count);
    return *culprit == count ? SLAB_OK : SLAB_FOREIGN;
}

void *cache_refill_runs(struct cache *cache, unsigned class_index) {
    size_t most = min_size(cache->state[class_index].capacity / 2u, cache_batch_limit(class_index));
    void **top = cache->top[class_index];
    unsigned count = 0;
    if (most > 0 && *top == NULL) {
        count = page_runs_take(size_classes[class_index].pages, top + 1, (unsigned)most);
        STORE_RELEASE(cache->top[class_index], top + count);
    }
    cache_earn_by_regret(cache, class_index, count ? count : 1);
    return bin_pop(cache, class_index);
}

/* free looks at no pointer that a bin takes. */
void *cache_sound_run(void *run) {
    if (LIKELY((uintptr_t)run % PAGE_BYTES == 0))
        return run;
    report_bad_pointer("free", run);
    return NULL;
}

bool cache_holds_run(unsigned class_index, const void *run) {
    if (!sizeclass_is_run(class_index))
        return false;
    const struct cache *cache = cache_is_watched() ? cache_watched : cache_tls;
    for (void **slot = cache->top[class_index]; *slot; slot--)
        if (*slot == run)
            return true;
    return false;
}
