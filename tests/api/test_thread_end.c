/* SPDX-License-Identifier: MIT
 *
 * test_thread_end.c: the heap is used after a thread's cache is gone, and while it is cancelled.
 */
#include "thread_support.h"

#include <stdatomic.h>

/* ---- After the thread's cache is gone ----------------------------------------------------------- */

/* TSan's own destructor runs in the last round; instrumented code cannot run after it. */
enum { ROUNDS = UNDER_TSAN ? 2 : 4, EARLY_KEY = 0, LATE_KEY, KEYS };

/* From the C++ ABI: runs function(object) when the thread ends, before all key destructors. */
extern int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *module);
extern void *__dso_handle;

struct mourner {
    void *blocks[BLOCKS_HELD];
    int rounds;
    pthread_key_t key;
};

static pthread_key_t keys[KEYS];
static _Atomic int destructor_calls;
static _Atomic int thread_local_calls;

/* Uses the heap in every round of destructors that POSIX grants, whatever ran before. */
static void destroy_in_rounds(void *argument) {
    struct mourner *mourner = argument;
    atomic_fetch_add(&destructor_calls, 1);
    for (size_t i = 0; i < BLOCKS_HELD; i++) {
        check_and_free(mourner->blocks[i], size_of_block(i), i);
        mourner->blocks[i] = filled(size_of_block(i), i);
    }
    if (++mourner->rounds < ROUNDS) {
        must(pthread_setspecific(mourner->key, mourner) == 0);
        return;
    }
    for (size_t i = 0; i < BLOCKS_HELD; i++)
        check_and_free(mourner->blocks[i], size_of_block(i), i);
    t_free(mourner);
}

static void destroy_thread_local(void *argument) {
    atomic_fetch_add(&thread_local_calls, 1);
    check_and_free(argument, 500, 500);
    t_free(t_malloc(5000));
}

static void *leave_work_for_destructors(void *argument) {
    for (size_t k = 0; k < KEYS; k++) {
        struct mourner *mourner = t_calloc(1, sizeof *mourner);
        must(mourner != NULL);
        for (size_t i = 0; i < BLOCKS_HELD; i++)
            mourner->blocks[i] = filled(size_of_block(i), i);
        mourner->key = keys[k];
        must(pthread_setspecific(keys[k], mourner) == 0);
    }
    must(__cxa_thread_atexit_impl(destroy_thread_local, filled(500, 500), &__dso_handle) == 0);
    return argument;
}

/* A thread whose first call of the allocator comes from a destructor. */
static void *leave_first_call_to_destructor(void *argument) {
    must(pthread_setspecific(keys[LATE_KEY], argument) == 0);
    return NULL;
}

static struct mourner *make_mourner(void) {
    struct mourner *mourner = t_calloc(1, sizeof *mourner);
    must(mourner != NULL);
    for (size_t i = 0; i < BLOCKS_HELD; i++)
        mourner->blocks[i] = filled(size_of_block(i), i);
    mourner->key = keys[LATE_KEY];
    return mourner;
}

static void run_destructors(void) {
    enum { THREADS = UNDER_SANITIZER ? 100 : 1000 };
    must(pthread_key_create(&keys[EARLY_KEY], destroy_in_rounds) == 0);
    t_free(t_malloc(100)); /* any key of the allocator's own lies between the two */
    must(pthread_key_create(&keys[LATE_KEY], destroy_in_rounds) == 0);
    size_t early = 0;
    for (size_t i = 0; i < THREADS; i++) {
        join(start(leave_work_for_destructors, NULL));
        join(start(leave_first_call_to_destructor, make_mourner()));
        if (i == THREADS / 10)
            early = resident_bytes();
    }
    must(destructor_calls == THREADS * (KEYS + 1) * ROUNDS);
    must(thread_local_calls == THREADS);
    size_t late = resident_bytes();
    printf("# resident after a tenth of the threads %zu KiB, after all %zu KiB\n", early / KIB,
           late / KIB);
    fflush(stdout);
    must(UNDER_SANITIZER || late < early + MIB);
}

static void destructors_of_all_rounds_may_use_the_heap(void **state) {
    (void)state;
    assert_child_succeeds(run_destructors);
}

/* ---- Cancellation -------------------------------------------------------------------------------- */

static atomic_bool passed_all_calls;

/* Ends in the middle of the function, which ASan would take for a stack that is still in use. */
__attribute__((no_sanitize_address)) static void *call_everything_while_cancelled(void *argument) {
    must(pthread_cancel(pthread_self()) == 0);
    void *blocks[6] = {t_malloc(100), t_calloc(1, 100000), t_memalign(64, 10)};
    blocks[3] = t_realloc(t_malloc(10), 3 * MIB);
    blocks[4] = t_malloc(64 * MIB);
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        t_free(blocks[i]);
    (void)t_malloc_trim(0);
    (void)t_mallinfo2();
    (void)t_mallopt(M_TOP_PAD, 0);
    t_malloc_stats();
    atomic_store(&passed_all_calls, true);
    pthread_testcancel();
    return argument;
}

static void run_cancellation(void) {
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int saved = dup(STDERR_FILENO);
    must(null >= 0 && saved >= 0 && dup2(null, STDERR_FILENO) >= 0); /* for malloc_stats */
    pthread_t thread = start(call_everything_while_cancelled, NULL);
    void *result = NULL;
    must(pthread_join(thread, &result) == 0);
    must(dup2(saved, STDERR_FILENO) >= 0);
    must(result == PTHREAD_CANCELED);
    must(passed_all_calls);
}

static void no_call_is_a_cancellation_point(void **state) {
    (void)state;
    assert_child_succeeds(run_cancellation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(destructors_of_all_rounds_may_use_the_heap),
        cmocka_unit_test(no_call_is_a_cancellation_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
