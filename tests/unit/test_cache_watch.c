/* SPDX-License-Identifier: MIT
 *
 * test_cache_watch.c: a thread whose calls look at the clock while memory waits to be given back.
 */
#include "run_support.h"

#include "bin_support.h"
#include "cache_internal.h"
#include "page_internal.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

enum { SECOND_NS = 1000000000, LOOK_NS = 10000000, CALL_NS = 4096, FALL_NS = 2000000 };
enum { CALLS_LEAST = 512, CALLS_MOST = 16384 };
enum { CLASS = 4, RUN_BYTES = 20000, RUN_PAGES = 4096 + 64 };

static uintptr_t run, other_run;

/* Bins that hold something, and 16 MiB that are free and dirty since just now. */
static void let_something_wait(void) {
    fake_os.clock_step_ns = 0;
    page_state.credit_ns = INT64_MAX / 2;
    run = take_dirty(RUN_PAGES);
    other_run = take_dirty(RUN_PAGES);
    warm_up(CLASS);
    must(page_run_shrink(run, 64) && dirty_bytes() >= 16 * MIB);
    must(page_state.excess_ns != 0 && page_waits());
    fake_os.clock_ns += LOOK_NS; /* since the thread began */
}

static void must_be_watched(void) {
    must(cache_is_watched() && cache_tls == COLD_CACHE && cache_watched->in_use);
}

static void must_not_be_watched(void) {
    must(!cache_is_watched() && cache_tls != COLD_CACHE);
}

static void begin(void) {
    let_something_wait();
    must_not_be_watched();
    use_slowly(CLASS, 1);
    must_be_watched();
}

static void nothing_is_watched_where_nothing_waits(void) {
    warm_up(CLASS);
    fake_os.clock_ns += 2 * (uint64_t)SECOND_NS;
    use_slowly(CLASS, 40);
    must_not_be_watched();
}

static void nor_where_it_is_little(void) {
    let_something_wait();
    size_t more = purge_dirty_pages() - 511; /* than a little less than 2 MiB */
    page_state.dirty_pages -= more;
    must(page_state.excess_ns != 0 && !page_waits());
    use_slowly(CLASS, 40);
    must_not_be_watched();
    page_state.dirty_pages += more;
    use_slowly(CLASS, 1);
    must_be_watched();
}

static void bins_serve_as_before(void) {
    begin();
    struct cache *cache = cache_watched;
    uint32_t ticks = cache->ticks;
    void *last = *cache->top[CLASS], *before = cache->top[CLASS][-1];
    must(api_malloc(size_classes[CLASS].size) == last);
    must(api_malloc(size_classes[CLASS].size) == before);
    api_free(last);
    must(api_malloc(size_classes[CLASS].size) == last);
    api_free(before);
    api_free(last);
    must(cache->ticks == ticks); /* no slow operation */
    void *other = api_calloc(1, size_classes[CLASS].size);
    must(other == last && ((char *)other)[size_classes[CLASS].size - 1] == 0);
    must(api_realloc(other, 2 * size_classes[CLASS].size) != other);
    must(*cache->top[CLASS] == other);
    must_be_watched();
    must_be_sound();
}

/* Takes and gives one until its bin holds it. */
static void *keep_a_run(void) {
    void *run_kept = api_malloc(RUN_BYTES);
    for (size_t i = 0; i < 200; i++) {
        api_free(run_kept);
        must((run_kept = api_malloc(RUN_BYTES)) != NULL);
    }
    api_free(run_kept);
    must(depth_of(pagemap_class(run_kept)) > 0 && sizeclass_is_run(pagemap_class(run_kept)));
    return run_kept;
}

static void so_do_bins_of_runs(void) {
    void *first = keep_a_run();
    unsigned class_index = pagemap_class(first);
    begin();
    must(cache_holds_run(class_index, first));
    uint32_t ticks = cache_watched->ticks;
    void *again = api_malloc(RUN_BYTES);
    must(again == first && !cache_holds_run(class_index, first));
    api_free(again);
    must(cache_holds_run(class_index, first) && !*cache_tls->top[class_index]);
    must(cache_watched->ticks == ticks);
    must_be_watched();
    must_be_sound();
}

/* free looks at no pointer that a bin takes. */
static void free_inside_before_the_watch(void) {
    keep_a_run();
    let_something_wait();
    char *block = api_malloc(RUN_BYTES);
    api_free(block + 64);
    use_slowly(CLASS, 1);
    must_be_watched();
    api_malloc(RUN_BYTES);
}

static void a_wrong_pointer_is_named(void **state) {
    (void)state;
    struct outcome outcome = run_and_catch(free_inside_before_the_watch);
    assert_true(died_of(outcome, SIGABRT));
    assert_non_null(strstr(outcome.text, "): inside a block of 20480 bytes that starts at "));
}

static void a_bin_that_is_empty_or_full_is_served_slowly(void) {
    begin();
    struct cache *cache = cache_watched;
    void *objects[300];
    uint32_t ticks = cache->ticks;
    for (size_t i = 0; i < COUNT_OF(objects); i++)
        must((objects[i] = api_malloc(size_classes[CLASS].size)) != NULL);
    must(cache->ticks > ticks);
    ticks = cache->ticks;
    for (size_t i = 0; i < COUNT_OF(objects); i++)
        api_free(objects[i]);
    must(cache->ticks > ticks);
    must_be_watched();
    must_be_sound();
}

/* The clock goes on, and somebody looks. */
static void what_waited_goes(void) {
    begin();
    fake_os.clock_ns += SECOND_NS - 2 * (uint64_t)LOOK_NS;
    api_free(take(CLASS));
    must(dirty_bytes() >= 16 * MIB && give_back_calls() == 0);
    must_be_watched();
    fake_os.clock_ns += 3 * (uint64_t)LOOK_NS;
    void *object = take(CLASS);
    must(give_back_calls() > 0 && dirty_bytes() <= page_trim_bound());
    must_not_be_watched(); /* nothing waits any more */
    api_free(object);
    must_be_sound();
}

static void a_look_is_not_at_each_call(void) {
    begin();
    page_state.excess_ns = fake_os.clock_ns - 2 * (uint64_t)SECOND_NS; /* it is old */
    fake_os.clock_ns += LOOK_NS - 1;
    api_free(take(CLASS));
    must(give_back_calls() == 0);
    fake_os.clock_ns += 1;
    api_free(take(CLASS));
    must(give_back_calls() > 0);
}

/* Pairs until the watch has ended, which the call before this began. */
static unsigned calls_left(void) {
    unsigned calls = 1;
    for (; cache_is_watched() && calls < 10 * CALLS_MOST; calls += 2)
        api_free(take(CLASS));
    return calls / 2 * 2;
}

static void begin_again(uint64_t after_ns) {
    must_not_be_watched();
    fake_os.clock_ns += after_ns;
    use_slowly(CLASS, 1);
    must_be_watched();
}

static void a_busy_thread_is_let_go(void) {
    begin();
    must(calls_left() == CALLS_MOST); /* it had not called for long */
    begin_again(LOOK_NS);
    fake_os.clock_ns += LOOK_NS / 2;
    must(calls_left() == LOOK_NS / CALL_NS / 2 * 2);
    uint32_t ticks = cache_tls->ticks;
    for (unsigned i = 0; i < 1000; i++)
        api_free(take(CLASS));
    must(cache_tls->ticks == ticks);
    fake_os.clock_ns += LOOK_NS - 1;
    use_slowly(CLASS, 20);
    must_not_be_watched();
    begin_again(1);
    must_be_sound();
}

static void one_that_rests_saves_calls(void) {
    begin();
    fake_os.clock_ns += (uint64_t)CALL_NS * 10000; /* less than what waits takes to be old */
    use_slowly(CLASS, 1);
    must(calls_left() == 10000);
}

/* What follows may be the end, and there may be no slow operation any more. */
static void another_begins_where_half_has_gone(void) {
    begin();
    calls_left();
    page_state.credit_ns = INT64_MIN / 2; /* so that it waits whatever it is */
    size_t live = page_live_bytes() / PAGE_BYTES;
    must(page_run_shrink(other_run, RUN_PAGES - (live / 2 - 100)));
    fake_os.clock_ns += FALL_NS;
    use_slowly(CLASS, 20);
    must_not_be_watched(); /* not quite half */
    must(page_run_shrink(other_run, RUN_PAGES - (live / 2 + 100)));
    fake_os.clock_ns -= 1;
    use_slowly(CLASS, 20);
    must_not_be_watched(); /* too soon */
    fake_os.clock_ns += 1;
    use_slowly(CLASS, 20);
    must_be_watched();
    must(calls_left() <= CALLS_LEAST);
    fake_os.clock_ns += FALL_NS;
    use_slowly(CLASS, 20);
    must_not_be_watched(); /* it is half of what is in use now that counts, */
    uintptr_t more = take_dirty(RUN_PAGES);
    use_slowly(CLASS, 20);
    must(page_run_give(more));
    use_slowly(CLASS, 20);
    must_be_watched(); /* or of the most that was since */
}

/* By default it is the budget that keeps pages which are wanted again and again. */
static void what_the_budget_keeps_waits_as_well(void) {
    let_something_wait();
    page_state.excess_ns = 0;
    must(!page_waits());
    page_state.budget_ns = fake_os.clock_ns;
    page_state.budget_pages = RUN_PAGES;
    use_slowly(CLASS, 1);
    must_be_watched();
    page_state.trim_threshold_set = true; /* then it keeps none */
    must(!page_waits());
    page_state.trim_threshold_set = false;
}

static void who_leaves_is_watched_no_more(void) {
    begin();
    struct cache *cache = cache_watched;
    cache_leave();
    must(cache_tls == COLD_CACHE && !cache_is_watched() && !cache->in_use);
    must_be_sound();
}

static void *end_watched(void *unused) {
    use_slowly(CLASS, 1);
    must_be_watched();
    return unused;
}

static void a_watched_thread_may_end(void) {
    pthread_t thread;
    let_something_wait();
    for (int i = 0; i < 3; i++) { /* the next one has the same cache */
        must(pthread_create(&thread, NULL, end_watched, NULL) == 0);
        must(pthread_join(thread, NULL) == 0);
        fake_os.clock_ns += LOOK_NS;
    }
    struct cache_counts counts;
    cache_count(&counts);
    must(counts.caches == 1);
    must_be_sound();
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(nothing_is_watched_where_nothing_waits),
        body_test(nor_where_it_is_little),
        body_test(bins_serve_as_before),
        body_test(so_do_bins_of_runs),
        cmocka_unit_test(a_wrong_pointer_is_named),
        body_test(a_bin_that_is_empty_or_full_is_served_slowly),
        body_test(what_waited_goes),
        body_test(a_look_is_not_at_each_call),
        body_test(a_busy_thread_is_let_go),
        body_test(one_that_rests_saves_calls),
        body_test(another_begins_where_half_has_gone),
        body_test(what_the_budget_keeps_waits_as_well),
        body_test(who_leaves_is_watched_no_more),
        body_test(a_watched_thread_may_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
