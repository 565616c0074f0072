/* SPDX-License-Identifier: MIT
 *
 * test_cache_runs.c: runs that threads cache: who earns it and who does not, what a wrong pointer
 * does, what a threshold forbids, and what a fork child finds.
 */
#include "unit_support.h"

#include "api.h"
#include "cache.h"
#include "heap.h"
#include "option.h"

#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>

enum { PAIRS = 100, EARNED_AFTER = 65 };

static struct cache_counts counts;

static unsigned bin_of(size_t bytes) {
    return sizeclass_for_run(bytes);
}

static unsigned capacity_of(size_t bytes) {
    return cache_tls->state[bin_of(bytes)].capacity;
}

static size_t cached(size_t bytes) {
    cache_count(&counts);
    return counts.objects[bin_of(bytes)];
}

static void use(size_t bytes, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        void *block = api_malloc(bytes);
        must(block && page_run_pages((uintptr_t)block) == size_classes[bin_of(bytes)].pages);
        api_free(block);
    }
}

/* Takes so many, then frees them. */
static void use_batch(size_t bytes, size_t count) {
    void *block[80];
    must(count <= COUNT_OF(block));
    for (size_t i = 0; i < count; i++)
        must((block[i] = api_malloc(bytes)) != NULL);
    for (size_t i = 0; i < count; i++)
        api_free(block[i]);
}

/* ---- who earns it -------------------------------------------------------------------------------- */

static void what_is_used_often_is_kept(void) {
    use(32 * KIB, EARNED_AFTER - 2);
    must(cached(32 * KIB) == 0 && capacity_of(32 * KIB) == 0);
    use(32 * KIB, 2);
    must(cached(32 * KIB) == 1 && capacity_of(32 * KIB) == 4); /* 128 KiB of them */
    void *block = api_malloc(32 * KIB);
    must(cached(32 * KIB) == 0);
    api_free(block);
    for (size_t i = 0; i < PAIRS; i++) {
        must(api_malloc(32 * KIB) == block);
        api_free(block);
    }
    must(page_live_bytes() == 32 * KIB && page_dirty_bytes() == 0);
    cache_flush();
    must(cached(32 * KIB) == 0 && page_live_bytes() == 0 && page_dirty_bytes() == 32 * KIB);
    must_be_sound();
}

/* Half of what the bin holds at once, as long as there are such as were given back lately; then fresh ones, one by one. */
static void runs_come_back_a_few_at_once(void) {
    use(32 * KIB, PAIRS);
    must(capacity_of(32 * KIB) == 4);
    void *blocks[5];
    use_batch(32 * KIB, 3); /* three in the bin */
    cache_flush();          /* and now hot in the page layer */
    must(cached(32 * KIB) == 0 && page_dirty_bytes() == 96 * KIB);
    static const size_t left[] = {1, 0, 0, 0, 0};
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        bool zero = i < 3;
        if (cached(32 * KIB))
            blocks[i] = api_malloc(32 * KIB), zero = false;
        else
            blocks[i] = cache_take_run(bin_of(32 * KIB), 8, 1, &zero);
        must(blocks[i] && zero == (i >= 3) && cached(32 * KIB) == left[i]);
        must(pagemap_class(blocks[i]) == bin_of(32 * KIB));
    }
    must(page_dirty_bytes() == 0);
    must_be_sound();
}

static void one_of_the_longest_is_kept(void) {
    heap_set_mmap_threshold(MIB);
    use(RUN_MAX, PAIRS);
    must(capacity_of(RUN_MAX) == 1 && cached(RUN_MAX) == 1);
    use_batch(RUN_MAX, 3);
    must(cached(RUN_MAX) == 1);
    void *longer = api_malloc(RUN_MAX + 1);
    must(longer && pagemap_class(longer) == 0);
    api_free(longer);
    must(cached(RUN_MAX) == 1);
    must_be_sound();
}

static void *handed_over[1000];

static void *free_all(void *argument) {
    size_t bytes = *(size_t *)argument;
    for (size_t i = 0; i < COUNT_OF(handed_over); i++)
        api_free(handed_over[i]);
    must(capacity_of(bytes) == 0 && cached(bytes) == 0);
    return NULL;
}

/* Who only frees would fill a cache that nobody takes from. */
static void who_only_frees_keeps_nothing(void) {
    size_t bytes = 20 * KIB;
    for (size_t i = 0; i < COUNT_OF(handed_over); i++)
        must((handed_over[i] = api_malloc(bytes)) != NULL);
    in_thread(free_all, &bytes);
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void batches_deepen_a_bin_up_to_a_mib(void) {
    use(32 * KIB, PAIRS);
    for (size_t i = 0; i < 100; i++)
        use_batch(32 * KIB, 80);
    must(capacity_of(32 * KIB) == 32 && cached(32 * KIB) <= 32);
    must_be_sound();
}

static void what_rests_is_given_back(void) {
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 1);
    for (size_t look = 0; look < 2; look++) {
        fake_os.clock_ns += 4 * 1000 * 1000;
        for (size_t i = 0; i < 8; i++) { /* slow operations of another class */
            void *object = cache_take(40);
            must(object && cache_give(40, object) == SLAB_OK);
        }
    }
    must(cached(32 * KIB) == 0 && capacity_of(32 * KIB) == 0);
    must_be_sound();
}

/* ---- what is allocated --------------------------------------------------------------------------- */

static void every_call_takes_what_is_cached(void) {
    use(60000, PAIRS);
    unsigned char *block = api_malloc(60000);
    memset(block, 7, 60000);
    api_free(block);
    must(api_calloc(3, 20000) == block && all_zero(block, 60000));
    api_free(block);
    must(api_memalign(PAGE_BYTES, 60000) == block);
    api_free(block);
    must(api_memalign(64, 60000) == block);
    api_free(block);
    must(api_realloc(api_malloc(16), 60000) == block);
    api_free(block);
    must((uintptr_t)api_memalign(2 * PAGE_BYTES, 60000) % (2 * PAGE_BYTES) == 0);
    must(cached(60000) == 1);
    must_be_sound();
}

static bool is_at(const void *block, size_t align) {
    return block && (uintptr_t)block % align == 0;
}

/* Whoever asks for more than a page's alignment gets what is kept, where it lies so. */
static void aligned_runs_are_kept(void) {
    enum { ALIGN = 64 * KIB };
    void *block = NULL;
    for (size_t i = 0; i < EARNED_AFTER; i++) {
        must(is_at(block = api_memalign(ALIGN, 60000), ALIGN));
        must(api_malloc_usable_size(block) == 64 * KIB);
        api_free(block);
    }
    must(cached(60000) == 1);
    must(api_memalign(ALIGN, 60000) == block && cached(60000) == 0);
    must(is_at(api_memalign(ALIGN, 60000), ALIGN));
    must_be_sound();
}

/* What lies elsewhere stays in the bin, for others. */
static void a_run_that_is_not_aligned_stays_kept(void) {
    enum { ALIGN = 256 * KIB };
    use(60000, PAIRS);
    void *block = api_malloc(60000);
    while (is_at(block, ALIGN))
        block = api_malloc(60000);
    api_free(block);
    must(cached(60000) == 1);
    must(is_at(api_memalign(ALIGN, 60000), ALIGN) && cached(60000) == 1);
    must(api_malloc(60000) == block);
    must_be_sound();
}

/* Fresh pages are zero: calloc touches none of them, whether the class is cached or not. */
static void calloc_of_fresh_pages_touches_none(void) {
    use(20 * KIB, PAIRS);
    void *dirty = api_malloc(20 * KIB), *fresh = NULL;
    bool zero = false;
    while (!zero)
        must((fresh = cache_take_run(bin_of(20 * KIB), 5, 1, &zero)) != NULL);
    must(all_zero(fresh, 20 * KIB) && dirty != fresh);
    must_be_sound();
}

/* ---- options ------------------------------------------------------------------------------------- */

/* What a thread keeps is not counted as dirty; a threshold is kept to the byte all the same. */
static void with_a_threshold_nothing_is_kept(void) {
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 1);
    must(api_mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1);
    must(cached(32 * KIB) == 0 && page_dirty_bytes() == 32 * KIB);
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 0 && capacity_of(32 * KIB) == 0);
    must_be_sound();
}

static sem_t warm, go, finish;

static void *use_before_and_after(void *argument) {
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 1);
    sem_post(&warm);
    sem_wait(&go);
    use(40 * KIB, 1); /* a slow operation: it follows */
    must(cached(32 * KIB) == 0 && capacity_of(32 * KIB) == 0);
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 0);
    return argument;
}

static void *use_what_was_left(void *argument) {
    use(32 * KIB, 4);
    must(cached(32 * KIB) == 0 && capacity_of(32 * KIB) == 0);
    return argument;
}

/* Those that run, and those that get a cache which another thread left warm. */
static void other_threads_follow_a_threshold(void) {
    pthread_t thread;
    sem_init(&warm, 0, 0);
    sem_init(&go, 0, 0);
    must(pthread_create(&thread, NULL, use_before_and_after, NULL) == 0);
    sem_wait(&warm);
    must(api_mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1);
    sem_post(&go);
    must(pthread_join(thread, NULL) == 0);
    in_thread(use_what_was_left, NULL);
    must_be_sound();
}

static void *warm_up(void *argument) {
    use(32 * KIB, PAIRS);
    return argument;
}

static void a_warm_cache_follows_a_threshold(void) {
    in_thread(warm_up, NULL);
    must(api_mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1);
    in_thread(use_what_was_left, NULL);
    must_be_sound();
}

static void with_a_threshold_runs_are_as_short_as_may_be(void) {
    char *rounded = api_malloc(65 * KIB);
    must(api_malloc_usable_size(rounded) == 80 * KIB);
    must(api_mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1);
    must(api_malloc_usable_size(api_malloc(65 * KIB)) == 68 * KIB);
    api_free_sized(rounded, 65 * KIB);
    must_be_sound();
}

/* The step beyond the budget obeys them, too. */
static void limits_hold_beyond_the_budget(void) {
    heap_set_mmap_threshold(MIB);
    cache_set_size_limit(128 * KIB);
    for (unsigned bin = CLASS_COUNT; bin < BIN_COUNT; bin++) {
        size_t bytes = size_classes[bin].size;
        use(bytes, 1000);
        must((capacity_of(bytes) > 0) == (bytes <= 128 * KIB));
    }
    must_be_sound();
}

static void a_size_limit_counts_for_runs(void) {
    cache_set_size_limit(20 * KIB);
    use(20 * KIB, PAIRS);
    use(24 * KIB, PAIRS);
    must(cached(20 * KIB) == 1 && cached(24 * KIB) == 0);
    cache_set_enabled(false);
    must(cached(20 * KIB) == 0);
    use(20 * KIB, PAIRS);
    must(cached(20 * KIB) == 0);
    must_be_sound();
}

static void what_is_to_be_mapped_is_not_kept(void) {
    use(64 * KIB, PAIRS);
    use(32 * KIB, PAIRS);
    must(cached(64 * KIB) == 1);
    must(api_mallopt(M_MMAP_THRESHOLD, 64 * 1024) == 1);
    must(cached(64 * KIB) == 0 && cached(32 * KIB) == 1);
    void *block = api_malloc(64 * KIB);
    must(block && page_run_pages((uintptr_t)block) == 0);
    api_free(block);
    must_be_sound();
}

/* ---- wrong pointers ------------------------------------------------------------------------------ */

static void free_twice_while_cold(void) {
    void *block = api_malloc(32 * KIB);
    api_free(block);
    api_free(block);
}

static void free_twice_while_kept(void) {
    use(32 * KIB, PAIRS);
    void *block = api_malloc(32 * KIB);
    api_free(block);
    api_free(block);
    cache_flush();
}

static void resize_what_is_free(void) {
    use(32 * KIB, PAIRS);
    void *block = api_malloc(32 * KIB);
    api_free(block);
    api_realloc(block, 20 * KIB);
}

static void resize_what_is_free_within_its_pages(void) {
    use(32 * KIB, PAIRS);
    void *block = api_malloc(32 * KIB);
    api_free(block);
    api_realloc(block, 31 * KIB);
}

static char *inside;

static void free_inside_the_first_page(void) {
    use(32 * KIB, PAIRS);
    inside = api_malloc(32 * KIB);
    api_free(inside + 64);
    cache_flush();
}

static void free_inside_another_page(void) {
    use(32 * KIB, PAIRS);
    inside = api_malloc(32 * KIB);
    api_free(inside + PAGE_BYTES);
}

static void must_die_with(void (*body)(void), const char *words) {
    struct outcome outcome = run_and_catch(body);
    if (!died_of(outcome, SIGABRT) || !strstr(outcome.text, words))
        print_message("%s\n", outcome.text);
    assert_true(died_of(outcome, SIGABRT));
    assert_non_null(strstr(outcome.text, words));
}

static void wrong_pointers_are_named(void **state) {
    (void)state;
    must_die_with(free_twice_while_cold, "): already free\n");
    must_die_with(free_twice_while_kept, "): already free\n");
    must_die_with(resize_what_is_free, "quarry: realloc(");
    must_die_with(resize_what_is_free, "): already free\n");
    must_die_with(resize_what_is_free_within_its_pages, "): already free\n");
    must_die_with(free_inside_the_first_page, "): inside a block of 32768 bytes that starts at ");
    must_die_with(free_inside_another_page, "): inside a block of 32768 bytes that starts at ");
}

/* A wrong pointer changes nothing for the block that it lies in. */
static void a_wrong_pointer_is_refused(void) {
    char *block = api_malloc(32 * KIB);
    unsigned bin = bin_of(32 * KIB);
    must(cache_give(bin, block + 64) == SLAB_FOREIGN);
    must(cache_give(bin_of(24 * KIB), block) == SLAB_FOREIGN);
    must(pagemap_class(block) == bin);
    must(cache_give(bin, block) == SLAB_OK && cache_give(bin, block) == SLAB_FOREIGN);
    must_be_sound();
}

/* ---- fork ---------------------------------------------------------------------------------------- */

static void *hold_runs(void *argument) {
    use(32 * KIB, PAIRS);
    use(100 * KIB, PAIRS);
    sem_post(&warm);
    sem_wait(&finish);
    return argument;
}

static void a_fork_child_gets_the_runs_of_others(void) {
    pthread_t thread;
    sem_init(&warm, 0, 0);
    sem_init(&finish, 0, 0);
    must(pthread_create(&thread, NULL, hold_runs, NULL) == 0);
    sem_wait(&warm);
    use(32 * KIB, PAIRS);
    must(cached(32 * KIB) == 2 && cached(100 * KIB) == 1);
    pid_t pid = fork();
    if (pid == 0) {
        *fake_os.fork_page = 0; /* what the kernel does */
        heap_enter();
        cache_flush();
        must(cached(32 * KIB) == 0 && counts.caches == 1 && page_live_bytes() == 0);
        must_be_sound();
        _exit(0);
    }
    must(wait_for(pid) == 0);
    sem_post(&finish);
    must(pthread_join(thread, NULL) == 0);
    must(cached(32 * KIB) == 1); /* a thread that ends leaves nothing */
    must_be_sound();
}

/* ---- at random ----------------------------------------------------------------------------------- */

static void random_use_keeps_the_invariants(void) {
    enum { SLOTS = 60, STEPS = 30000 };
    static struct {
        unsigned char *block;
        size_t bytes;
        unsigned char fill;
    } slot[SLOTS];
    struct rng rng = {test_seed()};
    for (size_t i = 0; i < STEPS; i++) {
        size_t at = rng_below(&rng, SLOTS),
               bytes = rng_between(&rng, SMALL_MAX + 1, RUN_MAX + 8192);
        if (slot[at].block) {
            must(slot[at].block[0] == slot[at].fill &&
                 slot[at].block[slot[at].bytes - 1] == slot[at].fill);
            shadow_live_remove(slot[at].block);
        }
        if (rng_below(&rng, 4) == 0) {
            slot[at].block = api_realloc(slot[at].block, bytes);
        } else {
            api_free(slot[at].block);
            slot[at].block = api_malloc(bytes);
        }
        must(slot[at].block && api_malloc_usable_size(slot[at].block) >= bytes);
        shadow_live_add(slot[at].block, bytes);
        slot[at].bytes = bytes;
        slot[at].fill = (unsigned char)(i * 31 + 1);
        slot[at].block[0] = slot[at].block[bytes - 1] = slot[at].fill;
        if (i % 1000 == 0)
            must_be_sound();
        if (i % 7000 == 0)
            cache_flush();
    }
    for (size_t at = 0; at < SLOTS; at++)
        if (slot[at].block) {
            shadow_live_remove(slot[at].block);
            api_free(slot[at].block);
        }
    cache_flush();
    must(page_live_bytes() == 0);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(what_is_used_often_is_kept),
        body_test(runs_come_back_a_few_at_once),
        body_test(one_of_the_longest_is_kept),
        body_test(who_only_frees_keeps_nothing),
        body_test(batches_deepen_a_bin_up_to_a_mib),
        body_test(what_rests_is_given_back),
        body_test(every_call_takes_what_is_cached),
        body_test(aligned_runs_are_kept),
        body_test(a_run_that_is_not_aligned_stays_kept),
        body_test(calloc_of_fresh_pages_touches_none),
        body_test(with_a_threshold_nothing_is_kept),
        body_test(other_threads_follow_a_threshold),
        body_test(a_warm_cache_follows_a_threshold),
        body_test(with_a_threshold_runs_are_as_short_as_may_be),
        body_test(limits_hold_beyond_the_budget),
        body_test(a_size_limit_counts_for_runs),
        body_test(what_is_to_be_mapped_is_not_kept),
        cmocka_unit_test(wrong_pointers_are_named),
        body_test(a_wrong_pointer_is_refused),
        body_test(a_fork_child_gets_the_runs_of_others),
        body_test(random_use_keeps_the_invariants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
