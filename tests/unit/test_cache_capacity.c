/* SPDX-License-Identifier: MIT
 *
 * test_cache_capacity.c: what bins lose when they rest, and what they may have beyond the budget.
 */
#include "bin_support.h"

#include "cache_internal.h"
#include "heap.h"

#include <pthread.h>
#include <semaphore.h>

static struct cache_counts counts;

/* Pairs as a program has them. */
static void use(unsigned class_index, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        void *block = api_malloc(size_classes[class_index].size);
        must(block != NULL);
        api_free(block);
    }
}

/* Batches of a MiB deepen the bins of the largest small classes until the budget is spent. */
static void spend_the_budget(void) {
    for (size_t round = 0; round < 30; round++)
        for (unsigned i = CLASS_COUNT - 15; i < CLASS_COUNT; i++)
            use_batch(i, 2 * MIB / size_classes[i].size);
    cache_count(&counts);
    must(counts.capacity_bytes > 4 * MIB);
}

/* ---- what rests ---------------------------------------------------------------------------------- */

enum { PAIR_NS = 20, LOOK_NS = 4 * 1000 * 1000 };

/* The thread looks at each sixteenth slow operation whether it is time for a look at its bins. */
static void pass_a_look(void) {
    fake_os.clock_ns += LOOK_NS;
    use_slowly(7, 8);
}

static void what_rests_loses_all(void) {
    warm_up(4);
    pass_a_look();
    must(capacity_of(4) == 64 && depth_of(4) > 0); /* it was busy */
    pass_a_look();
    must(capacity_of(4) == 0 && depth_of(4) == 0);
    cache_flush();
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void a_bin_in_use_is_kept(void) {
    warm_up(4);
    for (size_t i = 0; i < 8; i++) {
        pass_a_look();
        use(4, 100); /* the fast path alone, with another depth each time */
        for (size_t k = 0; k <= i; k++)
            must(api_malloc(size_classes[4].size) != NULL);
    }
    must(capacity_of(4) == 64);
}

/* However much is done: bins of which a block is taken and given in turn stand where they stood as well. */
static void nothing_rests_within_a_moment(void) {
    warm_up(4);
    pass_a_look();
    use_slowly(9, 20000);
    must(capacity_of(4) == 64);
    pass_a_look();
    must(capacity_of(4) == 0);
}

/* Pairs of sizes in turn, and something else that keeps the thread looking; returns how many pairs' operations were slow,
 * once all have been used. */
static uint32_t use_in_turn(unsigned first, unsigned sizes, unsigned pairs) {
    enum { ROUND = 1000 };
    uint32_t slow = 0;
    fake_os.clock_step_ns = 0; /* it is the pairs that take time, not the looks at the clock */
    for (unsigned i = 0; i < sizes; i++)
        use(first + i, 70);
    for (unsigned i = 0; i < pairs; i += ROUND) {
        uint32_t before = own_bins()->ticks;
        for (unsigned k = 0; k < ROUND; k++)
            use(first + k % sizes, 1);
        slow += own_bins()->ticks - before;
        fake_os.clock_ns += ROUND * PAIR_NS;
        use_slowly(7, 256);
    }
    return slow;
}

static void all_sizes_in_turn_are_served(void) {
    enum { PAIRS = 2 * 1000 * 1000 };
    uint32_t slow = use_in_turn(8, CLASS_COUNT - 8, PAIRS);
    must(slow < PAIRS / 20);
}

/* ---- beyond the budget --------------------------------------------------------------------------- */

/* No bin pays the price that is due beyond the budget, so the budget holds. */
static void the_budget_limits_all_bins_together(void) {
    spend_the_budget();
    must(counts.capacity_bytes <= 4 * MIB + 512 * KIB + 40 * KIB); /* the step that exceeded it */
    must(counts.cached_bytes <= counts.capacity_bytes);
    use_slowly(4, 200);
    must(capacity_of(4) == 8);
    use_slowly(4, 600);
    must(capacity_of(4) > 8); /* it is worth it */
}

static void every_size_has_the_basic_capacity(void) {
    static const struct {
        size_t bytes;
        unsigned capacity;
    } basic[] = {{16, 8}, {512, 8}, {640, 6}, {1024, 4}, {2048, 2}, {4000, 2}};
    for (size_t i = 0; i < COUNT_OF(basic); i++) {
        spend_the_budget();
        unsigned class_index = sizeclass_for(basic[i].bytes);
        use(class_index, 31);
        must(capacity_of(class_index) == 0); /* not for nothing */
        use_slowly(class_index, 100);
        must(capacity_of(class_index) == basic[i].capacity);
    }
    must_be_sound();
}

static sem_t spent, finish;

static void *hoard(void *unused) {
    spend_the_budget();
    sem_post(&spent);
    sem_wait(&finish);
    return unused;
}

/* Another thread has what there is, and sleeps. */
static pthread_t begin_hoard(void) {
    pthread_t thread;
    sem_init(&spent, 0, 0);
    sem_init(&finish, 0, 0);
    must(pthread_create(&thread, NULL, hoard, NULL) == 0);
    sem_wait(&spent);
    return thread;
}

static void end_hoard(pthread_t thread) {
    cache_count(&counts);
    must(counts.capacity_bytes > 4 * MIB);
    sem_post(&finish);
    must(pthread_join(thread, NULL) == 0);
    must_be_sound();
}

static void sizes_in_turn_are_served_beyond_the_budget(void) {
    enum { PAIRS = 400 * 1000 };
    pthread_t thread = begin_hoard();
    uint32_t slow = use_in_turn(10, 26, PAIRS);
    must(slow < PAIRS / 20);
    end_hoard(thread);
}

/* ---- of runs ------------------------------------------------------------------------------------- */

/* Up to a MiB of each length, at a moment; returns what all bins for runs may hold. */
static size_t deepen_runs(void) {
    size_t capacity = 0;
    fake_os.clock_step_ns = 0;
    heap_set_mmap_threshold(MIB);
    for (unsigned i = CLASS_COUNT; i < BIN_COUNT; i++) {
        use(i, 1000);
        for (size_t round = 0; round < 200; round++)
            use_batch(i, 2 * MIB / size_classes[i].size);
        must(capacity_of(i) > 0);
    }
    for (unsigned i = CLASS_COUNT; i < BIN_COUNT; i++)
        capacity += capacity_of(i) * size_classes[i].size;
    return capacity;
}

/* 8 MiB for each thread; of a length beyond that one. */
static void runs_have_a_budget_of_their_own(void) {
    spend_the_budget();
    size_t capacity = deepen_runs();
    must(capacity > 8 * MIB && capacity < 12 * MIB);
    must(capacity_of(CLASS_COUNT) > 20 && capacity_of(BIN_COUNT - 1) == 1);
    must_be_sound();
}

static void each_thread_brings_a_budget_for_runs(void) {
    pthread_t thread = begin_hoard();
    must(deepen_runs() > 12 * MIB);
    end_hoard(thread);
}

enum { HOARDERS = 5 };

static void *hoard_runs(void *unused) {
    deepen_runs();
    sem_post(&spent);
    sem_wait(&finish);
    return unused;
}

/* What the caches of several threads may hold of runs together when each has deepened its bins. */
static size_t capacity_of_many(void) {
    pthread_t threads[HOARDERS];
    sem_init(&spent, 0, 0);
    sem_init(&finish, 0, 0);
    for (size_t i = 0; i < HOARDERS; i++) {
        must(pthread_create(&threads[i], NULL, hoard_runs, NULL) == 0);
        sem_wait(&spent);
    }
    size_t capacity = cache_shared.capacity_bytes[1];
    for (size_t i = 0; i < HOARDERS; i++)
        sem_post(&finish);
    for (size_t i = 0; i < HOARDERS; i++)
        must(pthread_join(threads[i], NULL) == 0);
    return capacity;
}

/* 16 MiB by regret; and what each earns by use, 128 KiB or a run of each length. */
static void many_threads_do_not_bring_as_many_budgets(void) {
    size_t capacity = capacity_of_many();
    must(capacity > 16 * MIB && capacity < 17 * MIB + HOARDERS * 5 * MIB / 2);
}

static void they_do_beside_what_is_live(void) {
    heap_set_mmap_max(0);
    void *live = api_malloc(400 * MIB); /* a quarter of it is no limit */
    must(live != NULL);
    size_t capacity = capacity_of_many();
    must(capacity > (HOARDERS - 1) * 8 * MIB);
    api_free(live);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(what_rests_loses_all),
        body_test(a_bin_in_use_is_kept),
        body_test(nothing_rests_within_a_moment),
        body_test(all_sizes_in_turn_are_served),
        body_test(the_budget_limits_all_bins_together),
        body_test(every_size_has_the_basic_capacity),
        body_test(sizes_in_turn_are_served_beyond_the_budget),
        body_test(runs_have_a_budget_of_their_own),
        body_test(each_thread_brings_a_budget_for_runs),
        body_test(many_threads_do_not_bring_as_many_budgets),
        body_test(they_do_beside_what_is_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
