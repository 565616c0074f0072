/* SPDX-License-Identifier: MIT
 *
 * test_cache_capacity.c: what bins lose when they seem idle, and what they may have beyond the budget.
 */
#include "bin_support.h"

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
            use_batch(i, MIB / size_classes[i].size);
    cache_count(&counts);
    must(counts.capacity_bytes > 4 * MIB);
}

/* ---- what seems idle ----------------------------------------------------------------------------- */

static void what_is_idle_loses_all(void) {
    warm_up(4);
    must(capacity_of(4) == 64 && depth_of(4) > 0);
    for (size_t i = 0; i < 1100 && depth_of(4) > 0; i++)
        use_slowly(7, 1);
    must(capacity_of(4) == 0 && depth_of(4) == 0);
    cache_flush();
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void a_bin_in_use_is_kept(void) {
    warm_up(4);
    for (size_t i = 0; i < 8; i++) {
        use_slowly(40, 512); /* one look at idle bins */
        use(4, 100);         /* the fast path alone, with another depth each time */
        for (size_t k = 0; k <= i; k++)
            must(api_malloc(size_classes[4].size) != NULL);
    }
    must(capacity_of(4) == 64);
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

/* It is emptied first, and loses all where it is not used from then on. */
static void what_is_idle_beyond_the_budget_keeps_the_basic_capacity(void) {
    pthread_t thread = begin_hoard();
    use_slowly(4, 100);
    use(4, 1);
    must(capacity_of(4) == 8 && depth_of(4) > 0);
    for (size_t i = 0; i < 1100 && depth_of(4) > 0; i++)
        use_slowly(7, 1);
    must(capacity_of(4) == 8 && depth_of(4) == 0);
    use(4, 1); /* a batch, as small as the bin */
    must(capacity_of(4) == 8 && depth_of(4) == 4);
    use_slowly(7, 3 * 512);
    must(capacity_of(4) == 0);
    end_hoard(thread);
}

/* Sizes that come and go one at a time: after a while few of them leave the fast path, though each look finds their bins
 * as the last one did. */
static void sizes_in_turn_are_served_beyond_the_budget(void) {
    enum { SIZES = 26, PAIRS = 20000, ROUND = 1000 };
    uint32_t slow = 0;
    pthread_t thread = begin_hoard();
    for (unsigned i = 0; i < SIZES; i++)
        use(10 + i, 70);
    for (unsigned i = 0; i < PAIRS; i += ROUND) {
        uint32_t before = cache_tls->ticks;
        for (unsigned k = 0; k < ROUND; k++)
            use(10 + k % SIZES, 1);
        slow += cache_tls->ticks - before;
        use_slowly(CLASS_COUNT - 20, 256); /* half of what lies between two looks */
    }
    must(slow < PAIRS / 20);
    end_hoard(thread);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(what_is_idle_loses_all),
        body_test(a_bin_in_use_is_kept),
        body_test(the_budget_limits_all_bins_together),
        body_test(every_size_has_the_basic_capacity),
        body_test(what_is_idle_beyond_the_budget_keeps_the_basic_capacity),
        body_test(sizes_in_turn_are_served_beyond_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
