/* SPDX-License-Identifier: MIT
 *
 * cache_watch: somebody looks at the clock while memory waits to be given back.
 *
 * PURPOSE  What is dirty and not wanted goes after a while (purge.c), in slow operations, for nobody else looks at the time.
 *          But a program that has freed a lot and then does little finds all it needs in its thread's cache, and makes
 *          none: what it has freed would stay for good.
 *
 * HOW      While something waits, a thread's cache_tls is the cold cache, all of whose bins are empty and full, so that
 *          its calls come to cache_take and cache_give.  They serve it from its own bins, as the fast path would, and
 *          look around every WATCH_NS, until nothing waits any more.
 *
 * COST     A call takes some 12 ns, not 3.  A thread that makes more than one call in TRIP_NS is a busy one, and its watch ends when it has used
 *          up what it had saved.  It begins again at a slow operation WATCH_NS later, or FALL_NS
 *          later where half of what was in use is gone: what follows may be the end.
 *
 * LOCKING  A thread's own data only.
 *
 * WHY NOT  A counter on the fast path: two instructions of thirty, for all programs and all the time.  A thread of our own, or
 *          a timer's signal: programs see them.
 */
#include "cache_internal.h"
#include "os.h"
#include "page.h"

#define WATCH_NS ((uint64_t)10 * 1000 * 1000)
#define FALL_NS ((uint64_t)2 * 1000 * 1000)
#define TRIP_NS ((uint64_t)4096)

enum { TRIPS_LEAST = 512, TRIPS_MOST = 16384 };

__thread struct cache *cache_watched;

static void end(struct cache *cache) {
    cache_tls = cache;
    cache_watched = NULL;
}

/* What the thread has saved since the watch began, looked or ended. */
static uint32_t trips_after(uint64_t ns) {
    return (uint32_t)min_size(max_size(ns / TRIP_NS, TRIPS_LEAST), TRIPS_MOST);
}

bool cache_watch_is_due(const struct cache *cache) {
    return UNLIKELY(page_waits()) && os_clock_ns() - cache->watch_ns >= WATCH_NS;
}

void cache_watch(struct cache *cache) {
    if (!page_waits()) {
        if (cache_is_watched())
            end(cache);
        return;
    }
    size_t live_bytes = page_live_bytes();
    uint64_t now = os_clock_ns(), passed = now - cache->watch_ns;
    cache->watch_live = max_size(cache->watch_live, live_bytes);
    if (passed < (live_bytes > cache->watch_live / 2 ? WATCH_NS : FALL_NS))
        return;
    cache->watch_ns = now;
    cache->watch_live = live_bytes;
    cache->trips = trips_after(passed);
    cache_watched = cache;
    cache_tls = COLD_CACHE;
}

bool cache_watch_trips(struct cache *cache) {
    uint64_t now = os_clock_ns(), passed = now - cache->watch_ns;
    bool due = passed >= WATCH_NS;
    if (due)
        cache->trips = trips_after(passed);
    else if (--cache->trips == 0)
        end(cache);
    if (due || cache->trips == 0)
        cache->watch_ns = now;
    return due;
}
