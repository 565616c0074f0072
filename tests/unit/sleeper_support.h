/* SPDX-License-Identifier: MIT
 *
 * sleeper_support.h: a thread that has a cache, and waits while another plays with it.
 */
#ifndef SLEEPER_SUPPORT_H
#define SLEEPER_SUPPORT_H

#include "unit_support.h"

#include "api.h"
#include "cache_internal.h"

#include <pthread.h>
#include <semaphore.h>

enum { CLASS = 4, CACHED = 20, MUCH = 128 };

static sem_t warm, finish;

static struct cache *other;
static void (*at_the_end)(void);

static inline void fill(unsigned class_index, size_t count) {
    void *objects[128];
    must(count <= COUNT_OF(objects));
    for (size_t i = 0; i < 100; i++)
        api_free(api_malloc(size_classes[class_index].size));
    for (size_t round = 0; round < 40; round++) {
        for (size_t i = 0; i < count; i++)
            must((objects[i] = api_malloc(size_classes[class_index].size)) != NULL);
        for (size_t i = 0; i < count; i++)
            api_free(objects[i]);
    }
}

/* With MUCH of each of some classes it has more than 64 KiB. */
static inline void *wait_with_a_cache(void *count) {
    for (unsigned i = CLASS; i < ((size_t)count == MUCH ? CLASS + 20u : CLASS + 1u); i++)
        fill(i, (size_t)count);
    other = cache_tls;
    sem_post(&warm);
    sem_wait(&finish);
    if (at_the_end)
        at_the_end();
    return NULL;
}

static inline pthread_t begin(size_t count) {
    pthread_t thread;
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    must(pthread_create(&thread, NULL, wait_with_a_cache, (void *)count) == 0);
    sem_wait(&warm);
    return thread;
}

static inline void end(pthread_t thread) {
    sem_post(&finish);
    must(pthread_join(thread, NULL) == 0);
    cache_flush();
    struct cache_counts counts;
    struct slab_counts slab;
    cache_count(&counts);
    must(counts.cached_bytes == 0);
    slab_count(CLASS, &slab);
    must(slab.objects == slab.free_objects);
    must_be_sound();
}

/* Objects down to the first NULL, each of them taken from its slab. */
static inline size_t depth_of(const struct cache *cache, unsigned class_index) {
    size_t depth = 0;
    for (void **slot = cache->top[class_index]; *slot; slot--, depth++) {
        uintptr_t object = 0;
        bool is_free = true;
        must(slab_around((uintptr_t)*slot, &object, &is_free) == class_index);
        must(object == (uintptr_t)*slot && !is_free);
    }
    return depth;
}

#endif /* SLEEPER_SUPPORT_H */
