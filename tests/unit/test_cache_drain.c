/* SPDX-License-Identifier: MIT
 *
 * test_cache_drain.c: what a drain takes from a thread that sleeps, what it leaves to one that is at work, step
 * by step and at random, and which threads are taken for idle.
 *
 * Where a cache's owner has to be at a certain instruction, the main thread plays it: the owner itself
 * waits, and what it would do to its bin is done here (the owner's_* functions), at the drain's barriers.
 */
#include "unit_support.h"

#include "api.h"
#include "cache_internal.h"

#include <pthread.h>
#include <semaphore.h>

enum { CLASS = 4, CACHED = 20, MUCH = 128 };

static sem_t warm, finish;
static struct cache_counts counts;
static struct slab_counts slab;

/* ---- a thread that has a cache, and waits --------------------------------------------------------- */

static struct cache *other;
static void (*at_the_end)(void);

static void fill(unsigned class_index, size_t count) {
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
static void *wait_with_a_cache(void *count) {
    for (unsigned i = CLASS; i < ((size_t)count == MUCH ? CLASS + 20u : CLASS + 1u); i++)
        fill(i, (size_t)count);
    other = cache_tls;
    sem_post(&warm);
    sem_wait(&finish);
    if (at_the_end)
        at_the_end();
    return NULL;
}

static pthread_t begin(size_t count) {
    pthread_t thread;
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    must(pthread_create(&thread, NULL, wait_with_a_cache, (void *)count) == 0);
    sem_wait(&warm);
    return thread;
}

static void end(pthread_t thread) {
    sem_post(&finish);
    must(pthread_join(thread, NULL) == 0);
    cache_flush();
    cache_count(&counts);
    must(counts.cached_bytes == 0);
    slab_count(CLASS, &slab);
    must(slab.objects == slab.free_objects);
    must_be_sound();
}

/* Objects down to the first NULL, each of them taken from its slab. */
static size_t depth_of(const struct cache *cache, unsigned class_index) {
    size_t depth = 0;
    for (void **slot = cache->top[class_index]; *slot; slot--, depth++) {
        uintptr_t object = 0;
        bool is_free = true;
        must(slab_around((uintptr_t)*slot, &object, &is_free) == class_index);
        must(object == (uintptr_t)*slot && !is_free);
    }
    return depth;
}

/* ---- threads that sleep -------------------------------------------------------------------------- */

static void one_object_per_bin_stays(void) {
    pthread_t thread = begin(CACHED);
    size_t depth = depth_of(other, CLASS);
    must(depth >= CACHED);
    void *last = *other->top[CLASS];
    cache_drain();
    must(depth_of(other, CLASS) == 1 && *other->top[CLASS] == last);
    slab_count(CLASS, &slab);
    must(slab.objects - slab.free_objects == 1);
    cache_count(&counts);
    must(counts.objects[CLASS] == 1);
    cache_drain(); /* there is nothing left */
    must(depth_of(other, CLASS) == 1);
    end(thread);
}

static void use_after_a_drain(void) {
    void *objects[CACHED];
    for (size_t i = 0; i < CACHED; i++) {
        must((objects[i] = api_malloc(size_classes[CLASS].size)) != NULL);
        memset(objects[i], (int)i, size_classes[CLASS].size);
    }
    must(other->drain == 0 && other->state[CLASS].drained == 0);
    for (size_t i = 0; i < CACHED; i++) {
        must(*(unsigned char *)objects[i] == i);
        api_free(objects[i]);
    }
    must(depth_of(other, CLASS) <= other->state[CLASS].capacity);
}

static void the_owner_goes_on_as_before(void) {
    at_the_end = use_after_a_drain;
    pthread_t thread = begin(CACHED);
    cache_drain();
    must(other->drain == 1);
    end(thread);
}

/* What it frees lies above the gap, and the gap moves up. */
static void free_and_sleep_again(void) {
    void *objects[3];
    for (size_t i = 0; i < 3; i++)
        must((objects[i] = api_malloc(size_classes[CLASS].size)) != NULL);
    for (size_t i = 0; i < 3; i++)
        api_free(objects[i]);
    sem_post(&warm);
    sem_wait(&finish);
}

static void owners_push_above_the_gap(void) {
    at_the_end = free_and_sleep_again;
    pthread_t thread = begin(CACHED);
    void *mine[2] = {api_malloc(64), api_malloc(64)};
    cache_drain();
    struct cache *cache = other;
    must(cache_depth(cache, CLASS) == 1);
    *++cache->top[CLASS] = mine[0]; /* the owner frees what we had */
    *++cache->top[CLASS] = mine[1];
    must(cache_depth(cache, CLASS) == 3);
    cache_drain();
    must(depth_of(cache, CLASS) == 1 && *cache->top[CLASS] == mine[1]);
    must(cache_depth(cache, CLASS) == 1);
    sem_post(&finish);
    sem_wait(&warm);
    must(cache->state[CLASS].drained == 0 && depth_of(cache, CLASS) == cache_depth(cache, CLASS));
    end(thread);
}

static void the_calling_thread_keeps_what_it_has(void) {
    fill(CLASS, CACHED);
    size_t depth = depth_of(cache_tls, CLASS);
    cache_drain();
    must(depth >= CACHED && depth_of(cache_tls, CLASS) == depth);
}

static void trimming_drains(void) {
    pthread_t thread = begin(CACHED);
    must(depth_of(other, CLASS) > 1);
    api_malloc_trim(0);
    must(depth_of(other, CLASS) == 1);
    end(thread);
}

static void runs_are_drained_too(void) {
    pthread_t thread = begin(CACHED);
    unsigned bin = sizeclass_of_run(8);
    void *runs[4];
    bool zero;
    for (size_t i = 0; i < 4; i++)
        must((runs[i] = (void *)page_run_take(8, PAGE_BYTES, &zero)) != NULL);
    void *slots[1 + 4 + 1] = {NULL, runs[0], runs[1], runs[2], runs[3], NULL};
    for (size_t i = 0; i < 4; i++)
        pagemap_set_class((uintptr_t)runs[i], 1, bin);
    other->end[bin] = slots + 5;
    other->state[bin].capacity = 5;
    other->top[bin] = slots + 4;
    size_t live = page_live_bytes();
    cache_drain();
    must(live - page_live_bytes() >= 3 * 8 * PAGE_BYTES && *other->top[bin] == runs[3]);
    other->end[bin] = other->top[bin] = cache_no_slots;
    other->state[bin].capacity = other->state[bin].drained = 0;
    pagemap_set_class((uintptr_t)runs[3], 1, 0);
    must(page_run_give((uintptr_t)runs[3]));
    end(thread);
}

/* ---- threads that are at work --------------------------------------------------------------------- */

static unsigned barriers;
static void *pushed;

static void owner_is_busy(void) {
    if (barriers++ == 0)
        other->busy = 1;
}

static void owner_takes_one(void) {
    if (barriers++ == 1)
        other->top[CLASS]--;
}

static void owner_has_taken_two(void) {
    if (barriers++ == 1)
        other->top[CLASS] -= 2;
}

static void owner_has_put_another(void) {
    if (barriers++ == 1)
        *--other->top[CLASS] = pushed;
}

static void owner_has_put_two(void) {
    if (barriers++ == 1) {
        other->top[CLASS][-1] = pushed;
        other->top[CLASS][0] = other->top[CLASS][0];
    }
}

/* The bin as it was but for the objects that the owner took; nothing went to the slabs. */
static void must_leave_alone(void (*owner)(void), size_t taken, bool put) {
    pthread_t thread = begin(CACHED);
    void **top = other->top[CLASS], *last = top[0], *below = top[-1];
    size_t depth = depth_of(other, CLASS);
    slab_count(CLASS, &slab);
    size_t live = slab.objects - slab.free_objects;
    pushed = put ? api_malloc(64) : NULL;
    barriers = 0;
    fake_os.on_barrier = owner;
    cache_drain();
    fake_os.on_barrier = NULL;
    must(depth_of(other, CLASS) == depth - taken);
    slab_count(CLASS, &slab);
    must(slab.objects - slab.free_objects == live + put);
    must(top[-1] == (put ? pushed : below));
    other->busy = 0;
    if (taken > 0)
        api_free(last);
    if (taken > 1 || put)
        api_free(below);
    end(thread);
}

static void a_busy_owner_is_left_alone(void) {
    must_leave_alone(owner_is_busy, 0, false);
    must(barriers == 1);
}

/* It may be about to take the next. */
static void who_has_taken_the_last_keeps_the_next(void) {
    must_leave_alone(owner_takes_one, 1, false);
}

static void who_has_taken_two_keeps_them(void) {
    must_leave_alone(owner_has_taken_two, 2, false);
}

static void who_has_put_another_there_keeps_it(void) {
    must_leave_alone(owner_has_put_another, 1, true);
}

static void who_has_put_more_keeps_them(void) {
    must_leave_alone(owner_has_put_two, 0, true);
}

static void without_a_barrier_nothing_is_taken(void) {
    fake_os.no_barrier = true;
    pthread_t thread = begin(CACHED);
    size_t depth = depth_of(other, CLASS);
    cache_drain();
    must(depth_of(other, CLASS) == depth && other->drain == 0);
    end(thread);
}

static void second_barrier_fails(void) {
    if (barriers++ == 0)
        return;
    fake_os.no_barrier = true;
}

static void where_the_second_barrier_fails_all_is_put_back(void) {
    pthread_t thread = begin(CACHED);
    size_t depth = depth_of(other, CLASS);
    barriers = 0;
    fake_os.on_barrier = second_barrier_fails;
    cache_drain();
    must(fake_os.no_barrier && depth_of(other, CLASS) == depth);
    end(thread);
}

/* ---- at random ----------------------------------------------------------------------------------- */

/* The owner's program, one instruction at a time: a malloc loads an object and then lowers the top, a free
 * stores an object and then raises it; a malloc that loads NULL enters the slow path. */
enum { OBJECTS = 64 };
static struct {
    struct rng rng;
    void *live[OBJECTS];
    size_t count;
    void *loaded; /* and the top not lowered yet */
    bool stored;  /* and the top not raised yet */
    bool waits;   /* for the registry's lock */

    /* At the second barrier: some steps came before the drain's exchange, just after its look at the top. */
    bool in_the_past;
    void *past[256]; /* the stack as it was */
} owner;

static void **bottom(void) {
    return other->end[CLASS] - other->state[CLASS].capacity;
}

static void *load(void **slot) {
    return *slot || !owner.in_the_past ? *slot : owner.past[slot - bottom()];
}

static void step(void) {
    void ***top = &other->top[CLASS];
    if (owner.waits)
        return;
    if (owner.loaded) {
        owner.live[owner.count++] = owner.loaded;
        owner.loaded = NULL;
        --*top;
    } else if (owner.stored) {
        owner.stored = false;
        owner.count--;
        ++*top;
    } else if (rng_below(&owner.rng, 2)) {
        if (owner.count == OBJECTS)
            return;
        owner.loaded = load(*top);
        if (!owner.loaded) {
            other->busy = 1;
            owner.waits = other->drain;
            other->busy = other->drain;
        }
    } else if (owner.count > 0 && *top != other->end[CLASS]) {
        if (load(*top + 1) != (*top)[1])
            return; /* the exchange would have taken that */
        (*top)[1] = owner.live[owner.count - 1];
        owner.stored = true;
    }
}

static void some_steps(void) {
    for (uint64_t i = rng_below(&owner.rng, 8); i > 0; i--)
        step();
}

static void barrier(void) {
    owner.in_the_past = barriers++ == 1;
    if (owner.in_the_past)
        some_steps();
    owner.in_the_past = false;
    some_steps();
    memcpy(owner.past, bottom(), (other->state[CLASS].capacity + 1u) * sizeof(void *));
}

static void go_on(void) {
    bool between = !owner.loaded && !owner.stored;
    if (owner.waits || (other->drain && between && rng_below(&owner.rng, 2))) {
        cache_resume(other);
        owner.waits = false;
        other->busy = 0;
    }
    some_steps();
}

static int by_address(const void *a, const void *b) {
    uintptr_t first = *(const uintptr_t *)a, second = *(const uintptr_t *)b;
    return first < second ? -1 : first > second;
}

/* What the slabs miss is live or in the bin, and nothing is twice. */
static void must_own_each_once(void) {
    void *all[2 * OBJECTS + 256];
    size_t count = 0;
    for (; count < owner.count; count++)
        all[count] = owner.live[count];
    for (void **slot = other->top[CLASS]; *slot; slot--)
        all[count++] = *slot;
    qsort(all, count, sizeof *all, by_address);
    for (size_t i = 1; i < count; i++)
        must(all[i - 1] != all[i]);
    for (size_t i = 0; i < count; i++) {
        uintptr_t object = 0;
        bool is_free = true;
        must(slab_around((uintptr_t)all[i], &object, &is_free) == CLASS && !is_free);
    }
    slab_count(CLASS, &slab);
    must(slab.objects - slab.free_objects == count);
    must(cache_depth(other, CLASS) == count - owner.count);
}

/* An object of the slabs enters the owner's bin, as after a refill. */
static void refill(void) {
    void *object;
    if (owner.loaded || owner.stored || owner.waits || other->drain ||
        other->top[CLASS] == other->end[CLASS])
        return;
    must(slab_take(CLASS, &object, 1) == 1);
    *++other->top[CLASS] = object;
}

static void an_owner_at_any_instruction_loses_nothing(void) {
    pthread_t thread = begin(CACHED);
    owner.rng = (struct rng){test_seed()};
    size_t drained = 0;
    for (unsigned i = 0; i < 60000; i++) {
        barriers = 0;
        fake_os.on_barrier = barrier;
        cache_drain();
        fake_os.on_barrier = NULL;
        drained += other->state[CLASS].drained > 0;
        go_on();
        for (uint64_t k = rng_below(&owner.rng, 12); k > 0; k--)
            refill();
        if (!owner.loaded && !owner.stored)
            must_own_each_once();
    }
    must(drained > 1000);
    while (owner.loaded || owner.stored)
        step();
    while (owner.count > 0)
        api_free(owner.live[--owner.count]);
    end(thread);
}

/* ---- idle threads -------------------------------------------------------------------------------- */

/* Slow operations, so many that others' caches are looked at; each look at the clock takes a while. */
static void work(uint64_t clock_step_ns) {
    fake_os.clock_step_ns = clock_step_ns;
    for (size_t i = 0; i < 200; i++) {
        void *object = cache_take(9);
        must(object && cache_give(9, object) == SLAB_OK);
    }
    fake_os.clock_step_ns = 1000;
}

#define SOON ((uint64_t)1000)
#define LATER ((uint64_t)200 * 1000 * 1000)

static void who_sleeps_is_drained_by_others_work(void) {
    pthread_t thread = begin(MUCH);
    must(depth_of(other, CLASS) > 100);
    work(SOON);
    must(depth_of(other, CLASS) > 100);
    work(LATER);
    must(depth_of(other, CLASS) == 1);
    end(thread);
}

static void who_has_little_is_not(void) {
    pthread_t thread = begin(CACHED);
    work(LATER);
    must(depth_of(other, CLASS) >= CACHED);
    end(thread);
}

static void nobody_is_where_nothing_is_given_back(void) {
    page_set_trim_threshold(SIZE_MAX);
    pthread_t thread = begin(MUCH);
    work(LATER);
    must(depth_of(other, CLASS) > 100);
    end(thread);
}

/* Each look finds another top. */
static void who_works_is_not_idle(void) {
    pthread_t thread = begin(MUCH);
    void **last = other->top[CLASS];
    for (unsigned i = 0; i < 100; i++) {
        other->top[CLASS] = last - i % 2;
        work(LATER / 10);
    }
    other->top[CLASS] = last;
    must(depth_of(other, CLASS) > 100);
    end(thread);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(one_object_per_bin_stays),
        body_test(the_owner_goes_on_as_before),
        body_test(owners_push_above_the_gap),
        body_test(the_calling_thread_keeps_what_it_has),
        body_test(trimming_drains),
        body_test(runs_are_drained_too),
        body_test(a_busy_owner_is_left_alone),
        body_test(who_has_taken_the_last_keeps_the_next),
        body_test(who_has_taken_two_keeps_them),
        body_test(who_has_put_another_there_keeps_it),
        body_test(who_has_put_more_keeps_them),
        body_test(without_a_barrier_nothing_is_taken),
        body_test(where_the_second_barrier_fails_all_is_put_back),
        body_test(an_owner_at_any_instruction_loses_nothing),
        body_test(who_sleeps_is_drained_by_others_work),
        body_test(who_has_little_is_not),
        body_test(nobody_is_where_nothing_is_given_back),
        body_test(who_works_is_not_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
