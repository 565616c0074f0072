/* SPDX-License-Identifier: MIT
 *
 * test_cache_drain.c: what a drain takes from a thread that sleeps, what it leaves to one that is at work, step
 * by step, and which threads are taken for idle.  At random: test_cache_drain_random.c.
 *
 * Where a cache's owner has to be at a certain instruction, the main thread plays it: the owner itself
 * waits, and what it would do to its bin is done here (the functions owner_*), at the drain's barriers.
 */
#include "sleeper_support.h"

static struct cache_counts counts;
static struct slab_counts slab;

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

static void a_request_that_is_refused_drains(void) {
    static void *blocks[1000];
    size_t count = 0;
    pthread_t thread = begin(MUCH);
    must(depth_of(other, CLASS) > 1);
    fake_os.fail_kinds = FAKE_MEMORY;
    while (count < COUNT_OF(blocks) && (blocks[count] = api_malloc(20000)) != NULL)
        count++;
    must(count < COUNT_OF(blocks) && depth_of(other, CLASS) == 1);
    fake_os.fail_kinds = 0;
    while (count > 0)
        api_free(blocks[--count]);
    end(thread);
}

/* No page comes free by that. */
static void a_small_request_gets_what_sleepers_had(void) {
    static void *blocks[20000];
    size_t count = 0;
    pthread_t thread = begin(CACHED);
    fake_os.fail_kinds = FAKE_MEMORY;
    while (count < COUNT_OF(blocks) && (blocks[count] = api_malloc(64)) != NULL)
        count++;
    must(count < COUNT_OF(blocks) && depth_of(other, CLASS) == 1);
    slab_count(CLASS, &slab);
    must(slab.objects == count + 1 && slab.free_objects == 0);
    fake_os.fail_kinds = 0;
    while (count > 0)
        api_free(blocks[--count]);
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
    if (barriers++ == 1) /* and what was on top again above it */
        other->top[CLASS][-1] = pushed;
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

/* One cache at a time, so that no call takes long; but what a visit leaves for want of time is not forgotten. */
static void many_sleepers_are_drained_at_the_next_operations(void) {
    enum { SLEEPERS = 6 };
    pthread_t threads[SLEEPERS];
    struct cache *caches[SLEEPERS];
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    for (size_t i = 0; i < SLEEPERS; i++) {
        must(pthread_create(&threads[i], NULL, wait_with_a_cache, (void *)MUCH) == 0);
        sem_wait(&warm);
        caches[i] = other;
    }
    fake_os.clock_ns += LATER;
    work(0); /* now it is known where their tops stand */
    fake_os.clock_ns += 10 * LATER;
    work(0);
    size_t left = 0;
    for (size_t i = 0; i < SLEEPERS; i++)
        left += depth_of(caches[i], CLASS) > 1;
    must(left == 0);
    for (size_t i = 0; i < SLEEPERS; i++)
        sem_post(&finish);
    for (size_t i = 0; i < SLEEPERS; i++)
        must(pthread_join(threads[i], NULL) == 0);
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

static void count_barriers(void) {
    barriers++;
}

static void users_say_when(void) {
    pthread_t thread = begin(MUCH);
    size_t depth = depth_of(other, CLASS);
    barriers = 0;
    fake_os.on_barrier = count_barriers;
    cache_set_drains(DRAIN_NEVER);
    work(LATER);
    api_malloc_trim(0);
    must(barriers == 0 && depth_of(other, CLASS) == depth);
    cache_set_drains(DRAIN_ASKED);
    work(LATER);
    must(barriers == 0 && depth_of(other, CLASS) == depth);
    api_malloc_trim(0);
    must(barriers > 0 && depth_of(other, CLASS) == 1);
    end(thread);
}

static void who_has_nothing_left_is_let_be(void) {
    page_set_trim_threshold(0);
    pthread_t thread = begin(CACHED);
    work(LATER);
    must(depth_of(other, CLASS) == 1);
    barriers = 0;
    fake_os.on_barrier = count_barriers;
    work(LATER);
    must(barriers == 0);
    end(thread);
}

/* Each look finds another top. */
static void who_works_is_not_idle(void) {
    pthread_t thread = begin(MUCH);
    void **last = other->top[CLASS];
    for (unsigned i = 0; i < 100; i++) {
        other->top[CLASS] = last - i % 2;
        work(LATER / 40); /* less than a second each */
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
        body_test(a_request_that_is_refused_drains),
        body_test(a_small_request_gets_what_sleepers_had),
        body_test(runs_are_drained_too),
        body_test(a_busy_owner_is_left_alone),
        body_test(who_has_taken_the_last_keeps_the_next),
        body_test(who_has_taken_two_keeps_them),
        body_test(who_has_put_another_there_keeps_it),
        body_test(who_has_put_more_keeps_them),
        body_test(without_a_barrier_nothing_is_taken),
        body_test(where_the_second_barrier_fails_all_is_put_back),
        body_test(who_sleeps_is_drained_by_others_work),
        body_test(many_sleepers_are_drained_at_the_next_operations),
        body_test(who_has_little_is_not),
        body_test(nobody_is_where_nothing_is_given_back),
        body_test(users_say_when),
        body_test(who_has_nothing_left_is_let_be),
        body_test(who_works_is_not_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
