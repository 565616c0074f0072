/* SPDX-License-Identifier: MIT
 *
 * test_cache.c: capacity that is earned and limited; flushing; the end of threads; what a fork child finds;
 * refusals; and random use beside a model.  What is idle, and the budget: test_cache_capacity.c.
 */
#include "bin_support.h"

#include "lock.h"
#include "meta.h"

#include <pthread.h>
#include <semaphore.h>

static struct cache_counts counts;
static struct slab_counts slab;

/* INV-CACHE-1, for the calling thread; and what slabs miss is cached here or live. */
static void must_be_consistent(unsigned class_index, size_t live) {
    size_t depth = depth_of(class_index);
    must(depth <= capacity_of(class_index));
    void **top = cache_tls->top[class_index];
    for (size_t i = 0; i < depth; i++) {
        uintptr_t object = 0;
        bool is_free = true;
        must(slab_around((uintptr_t)top[-(long)i], &object, &is_free) == class_index);
        must(object == (uintptr_t)top[-(long)i] && !is_free);
        for (size_t k = 0; k < i; k++)
            must(top[-(long)k] != top[-(long)i]);
    }
    slab_count(class_index, &slab);
    must(slab.objects - slab.free_objects == live + depth);
}

static void must_cache_nothing(void) {
    cache_count(&counts);
    must(counts.cached_bytes == 0);
}

/* ---- capacity ------------------------------------------------------------------------------------ */

static void capacity_is_earned_step_by_step(void) {
    void *objects[600];
    size_t taken = 0;
    unsigned seen = 0;
    must(cache_registry == NULL);
    while (taken < COUNT_OF(objects) && capacity_of(4) < 64) {
        objects[taken++] = take(4);
        must(taken >= 16 || capacity_of(4) == 0);
        must(capacity_of(4) == seen || capacity_of(4) == (seen ? 2 * seen : 8));
        seen = capacity_of(4);
        must_be_consistent(4, taken);
    }
    must(seen == 64);
    while (taken)
        api_free(objects[--taken]);
    must_be_consistent(4, 0);
    must(capacity_of(4) == 64 && capacity_of(5) == 0);
}

static unsigned steady_capacity(unsigned class_index, size_t most) {
    size_t limit = 32 * KIB / size_classes[class_index].size;
    return (unsigned)(limit < 8 ? 8 : limit > most ? most : limit);
}

static void must_earn_by_use(size_t most) {
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        use_slowly(i, 2000);
        must(capacity_of(i) == steady_capacity(i, most));
    }
    must_be_sound();
}

static void use_alone_earns_64_objects_and_beyond_8_only_32_kib(void) {
    must_earn_by_use(64);
}

static void *earn_in_a_thread(void *argument) {
    must_earn_by_use(128);
    return argument;
}

static void where_there_are_threads_it_earns_128(void) {
    in_thread(earn_in_a_thread, NULL);
    must_cache_nothing();
}

static size_t free_in_slabs(unsigned class_index) {
    slab_count(class_index, &slab);
    return slab.free_objects;
}

/* The step from 1024 slots takes 2048 objects that came back, 128 a batch where it nearly fits. */
static void batches_deepen_a_bin_until_they_fit(void) {
    for (unsigned class_index = 4; class_index <= 32; class_index += 7) { /* 64 to 1024 bytes */
        size_t batch = 1000 - class_index % 4 * 50;
        for (size_t round = 0; round < 20; round++)
            use_batch(class_index, batch);
        must(capacity_of(class_index) >= batch);
        size_t before = free_in_slabs(class_index);
        use_batch(class_index, batch);
        must(free_in_slabs(class_index) == before);
    }
    for (size_t round = 0; round < 30; round++) {
        use_batch(sizeclass_for(2048), 1000); /* they would need 2 MiB */
        use_batch(1, 5000);
    }
    must(capacity_of(sizeclass_for(2048)) == 512 && capacity_of(1) == 2047);
    must_be_sound();
}

/* What is only taken, or only given, would not be served better by a deeper bin. */
static void streams_do_not_deepen_a_bin(void) {
    static void *objects[20000];
    use_slowly(4, 200);
    for (size_t i = 0; i < COUNT_OF(objects); i++)
        objects[i] = take(4);
    must(capacity_of(4) == 64);
    for (size_t i = 0; i < COUNT_OF(objects); i++)
        api_free(objects[i]);
    must(capacity_of(4) == 64);
    must_be_consistent(4, 0);
}

static void the_fast_path_touches_nothing_else(void) {
    warm_up(4);
    uint64_t calls = fake_os.calls;
    slab_count(4, &slab);
    size_t free_objects = slab.free_objects;
    void *objects[16];
    for (size_t round = 0; round < 1000; round++) {
        for (size_t i = 0; i < 16; i++)
            must((objects[i] = cache_pop(4)) != NULL);
        for (size_t i = 0; i < 16; i++)
            must(cache_push(4, objects[i]));
    }
    slab_count(4, &slab);
    must(slab.free_objects == free_objects && fake_os.calls == calls);
}

static void bins_end_where_they_end(void) {
    warm_up(4);
    cache_flush();
    must(depth_of(4) == 0 && cache_pop(4) == NULL);
    void *objects[65];
    for (size_t i = 0; i < 65; i++)
        must(slab_take(4, &objects[i], 1) == 1);
    for (size_t i = 0; i < 64; i++)
        must(cache_push(4, objects[i]));
    must(!cache_push(4, objects[64]) && depth_of(4) == 64);
    must(!cache_push(0, objects[64]) && cache_pop(0) == NULL); /* class 0 is full and empty */
    must(cache_give(4, objects[64]) == SLAB_OK);
    must(depth_of(4) == 33); /* the older half went, and this one came */
    must(cache_pop(4) == objects[64] && cache_pop(4) == objects[63]);
    must_be_consistent(4, 2);
}

static void options_limit_capacity(void) {
    static const size_t limits[] = {0, 1, 2, 5, 8, 63, 64, 65, 10000};
    for (unsigned i = 0; i < COUNT_OF(limits); i++) {
        unsigned expected = (unsigned)(limits[i] < 64 ? limits[i] : 64);
        cache_set_capacity_limit(limits[i]);
        warm_up(i + 1);
        must(capacity_of(i + 1) == expected && depth_of(i + 1) <= expected);
        must_be_consistent(i + 1, 0);
    }
    cache_set_size_limit(300);
    warm_up(sizeclass_for(300));
    warm_up(sizeclass_for(288));
    must(capacity_of(sizeclass_for(300)) == 0 && capacity_of(sizeclass_for(288)) == 64);
    cache_set_enabled(false);
    warm_up(12);
    must(capacity_of(12) == 0);
    must_be_sound();
}

/* ---- flush, threads ------------------------------------------------------------------------------ */

static void flushing_empties_every_bin(void) {
    for (unsigned i = 1; i < CLASS_COUNT; i += 5)
        warm_up(i);
    cache_count(&counts);
    must(counts.caches == 1 && counts.cached_bytes > 0);
    cache_flush();
    must_cache_nothing();
    must(page_live_bytes() == 0);
    must(counts.capacity_bytes > 0); /* what was earned stays */
    must_be_sound();
}

static void *warm_up_in_thread(void *argument) {
    (void)argument;
    for (unsigned i = 1; i < 20; i++)
        warm_up(i);
    struct cache_counts own;
    cache_count(&own);
    must(own.cached_bytes > 0);
    return NULL;
}

static size_t registered_caches(void) {
    size_t count = 0;
    for (const struct cache *cache = cache_registry; cache; cache = cache->next)
        count++;
    return count;
}

static void a_thread_leaves_nothing_behind(void) {
    for (size_t i = 0; i < 20; i++) {
        in_thread(warm_up_in_thread, NULL);
        must_cache_nothing();
        must(counts.caches == 0 && counts.capacity_bytes == 0);
        must(page_live_bytes() == 0);
        must_be_sound();
    }
    must(registered_caches() == 1); /* each used what the last one left */
}

static unsigned capacity_at_first;

static void *look_at_the_cache(void *argument) {
    (void)argument;
    use_slowly(19, 1);
    capacity_at_first = capacity_of(19);
    must(capacity_of(30) == 0);
    return NULL;
}

static void a_thread_starts_as_warm_as_another_one_ended(void) {
    in_thread(warm_up_in_thread, NULL);
    in_thread(look_at_the_cache, NULL);
    must(capacity_at_first == steady_capacity(19, 128));
    must_cache_nothing();
    must(counts.capacity_bytes == 0);
}

static sem_t warm, finish;

static void *hold_a_cache(void *argument) {
    warm_up_in_thread(argument);
    sem_post(&warm);
    sem_wait(&finish);
    return NULL;
}

/* The stacks of one class in all caches but the calling thread's, and of how many slots they are. */
static size_t stacks_of_others(unsigned class_index, void **stacks, unsigned *capacity) {
    size_t count = 0;
    for (struct cache *cache = cache_registry; cache; cache = cache->next) {
        if (cache == cache_tls || !cache->state[class_index].capacity)
            continue;
        *capacity = cache->state[class_index].capacity;
        stacks[count++] = cache->end[class_index] - *capacity;
    }
    return count;
}

/* How many of them are what a table of so many slots is made of now. */
static size_t found_among_the_free(void *const *stacks, size_t count, unsigned capacity) {
    size_t found = 0;
    for (size_t taken = 0; taken < 500; taken++) {
        void *table = meta_take((capacity + 1u) * sizeof(void *));
        for (size_t i = 0; i < count; i++)
            found += table == stacks[i];
    }
    return found;
}

static void a_fork_child_gets_what_others_had_cached(void) {
    pthread_t threads[4];
    void *stacks[5];
    unsigned capacity = 0;
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    for (size_t i = 0; i < 4; i++) {
        must(pthread_create(&threads[i], NULL, hold_a_cache, NULL) == 0);
        sem_wait(&warm);
    }
    warm_up(4);
    must(stacks_of_others(19, stacks, &capacity) == 4);
    pid_t pid = fork();
    if (pid == 0) {
        cache_count(&counts);
        must(counts.caches == 5);
        *fake_os.fork_page = 0; /* what the kernel does */
        heap_enter();
        must(*fake_os.fork_page == 1);
        cache_flush();
        must_cache_nothing();
        must(counts.caches == 1);
        must(page_live_bytes() == 0);
        must(found_among_the_free(stacks, 4, capacity) == 4);
        must_be_sound();
        _exit(0);
    }
    must(wait_for(pid) == 0);
    for (size_t i = 0; i < 4; i++)
        sem_post(&finish);
    for (size_t i = 0; i < 4; i++)
        must(pthread_join(threads[i], NULL) == 0);
}

static void few_unused_caches_stay_warm(void) {
    enum { THREADS = 20, KEPT = 8 };
    pthread_t threads[THREADS];
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, hold_a_cache, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        sem_wait(&warm);
    for (size_t i = 0; i < THREADS; i++)
        sem_post(&finish);
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_join(threads[i], NULL) == 0);
    size_t caches = 0, keeping = 0;
    for (const struct cache *cache = cache_registry; cache; cache = cache->next) {
        caches++;
        keeping += cache->state[19].capacity != 0;
    }
    must(caches == THREADS && keeping == KEPT);
    must_cache_nothing();
}

/* ---- refusals and wrong pointers ----------------------------------------------------------------- */

static void without_memory_for_a_cache_slabs_serve(void) {
    void *object = NULL;
    must(slab_take(4, &object, 1) == 1); /* a slab there is; tables there are not */
    fake_os.fail_kinds = FAKE_MEMORY;
    while (meta_take(64) != NULL)
        ;
    use_slowly(4, 100);
    must_cache_nothing();
    must(counts.caches == 0);
    fake_os.fail_kinds = 0;
    warm_up(4);
    must(capacity_of(4) == 64);
    must_be_sound();
}

static void without_memory_what_is_cached_is_given(void) {
    warm_up(4);
    static void *objects[20000];
    size_t count = 0, depth = depth_of(4);
    fake_os.fail_kinds = FAKE_MEMORY;
    errno = 0;
    while (count < COUNT_OF(objects) && (objects[count] = api_malloc(64)) != NULL)
        count++;
    must(count >= depth && count < COUNT_OF(objects) && errno == ENOMEM);
    must_be_consistent(4, count);
    while (count)
        api_free(objects[--count]);
    must((objects[0] = api_malloc(64)) != NULL);
    must_be_sound();
}

static void cold_bins_name_wrong_pointers(void) {
    char *object = take(4), *freed = take(4);
    must(cache_give(4, freed) == SLAB_OK);
    must(cache_give(4, freed) == SLAB_FREE);
    must(cache_give(4, object + 16) == SLAB_INTERIOR);
    must(cache_give(5, object) == SLAB_FOREIGN);
    must(cache_give(4, object) == SLAB_OK);
    must_be_sound();
}

static void free_twice_and_spill(void) {
    warm_up(4);
    void *object = take(4);
    api_free(object);
    api_free(object);
    cache_flush();
}

static void a_full_bin_finds_what_was_freed_twice(void **state) {
    (void)state;
    struct outcome outcome = run_and_catch(free_twice_and_spill);
    assert_true(died_of(outcome, SIGABRT));
    assert_non_null(strstr(outcome.text, "): already free\n"));
}

/* ---- at random ----------------------------------------------------------------------------------- */

static void random_use_matches_the_model(void) {
    enum { SLOTS = 3000, STEPS = 60000 };
    static void *objects[SLOTS];
    static size_t live[CLASS_COUNT];
    struct rng rng = {test_seed()};
    for (size_t i = 0; i < STEPS; i++) {
        void **object = &objects[rng_below(&rng, SLOTS)];
        if (rng_below(&rng, 3000) == 0)
            cache_flush();
        if (*object) {
            unsigned class_index = pagemap_class(*object);
            must(**(unsigned char **)object == class_index);
            shadow_live_remove(*object);
            api_free(*object);
            live[class_index]--;
            *object = NULL;
        } else {
            unsigned class_index = (unsigned)rng_between(&rng, 1, 6 + i / (STEPS / 16) * 3);
            *object = take(class_index);
            shadow_live_add(*object, size_classes[class_index].size);
            memset(*object, (int)class_index, size_classes[class_index].size);
            live[class_index]++;
        }
        if (i % 500 == 0)
            for (unsigned k = 1; k < CLASS_COUNT; k++)
                must_be_consistent(k, live[k]);
    }
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(capacity_is_earned_step_by_step),
        body_test(use_alone_earns_64_objects_and_beyond_8_only_32_kib),
        body_test(where_there_are_threads_it_earns_128),
        body_test(batches_deepen_a_bin_until_they_fit),
        body_test(streams_do_not_deepen_a_bin),
        body_test(the_fast_path_touches_nothing_else),
        body_test(bins_end_where_they_end),
        body_test(options_limit_capacity),
        body_test(flushing_empties_every_bin),
        body_test(a_thread_leaves_nothing_behind),
        body_test(a_thread_starts_as_warm_as_another_one_ended),
        body_test(few_unused_caches_stay_warm),
        body_test(a_fork_child_gets_what_others_had_cached),
        body_test(without_memory_for_a_cache_slabs_serve),
        body_test(without_memory_what_is_cached_is_given),
        body_test(cold_bins_name_wrong_pointers),
        cmocka_unit_test(a_full_bin_finds_what_was_freed_twice),
        body_test(random_use_matches_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
