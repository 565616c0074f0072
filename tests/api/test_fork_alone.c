/* SPDX-License-Identifier: MIT
 *
 * test_fork_alone.c: fork beside a signal handler, beside stdio, and what a fork costs a child that
 * frees.
 *
 * runner: timeout=900
 */
#include "fork_support.h"

#include <sys/time.h>

static uint64_t seed;

/* ---- fork in a signal handler that interrupted the allocator ------------------------------------ */

enum { HANDLER_FORKS = UNDER_SANITIZER ? 100 : 400, CALLS_AFTER_FORK = 300 };

static volatile sig_atomic_t forks_done;
static volatile sig_atomic_t is_child;
static bool child_goes_on;

static void fork_in_handler(int signal) {
    int saved_errno = errno;
    (void)signal;
    if (forks_done >= HANDLER_FORKS || is_child)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_LIMIT_SECONDS);
        is_child = 1;
        if (!child_goes_on)
            _exit(0);
    } else {
        must(pid > 0 && wait_for(pid) == 0);
        forks_done++;
    }
    errno = saved_errno;
}

/* The child that goes on returns from the handler into the call that was interrupted. */
static void allocate_while_forking(void) {
    struct rng rng = {seed};
    struct sigaction action = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 500}, {0, 500}};
    must(sigaction(SIGPROF, &action, NULL) == 0);
    must(setitimer(ITIMER_PROF, &often, NULL) == 0);
    while (forks_done < HANDLER_FORKS && !is_child) {
        for (int i = 0; i < 20; i++)
            churn(&rng);
        void *block = t_malloc(rng_below(&rng, 200000));
        block = t_realloc(block, rng_between(&rng, 1, 400000));
        t_free(block);
        if (rng_below(&rng, 50) == 0)
            (void)t_malloc_trim(0);
    }
    for (int i = 0; i < CALLS_AFTER_FORK; i++)
        churn(&rng);
    empty_table();
}

static void run_handler_forks(void) {
    child_goes_on = false;
    allocate_while_forking();
}

static void fork_in_a_signal_handler(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_handler_forks);
}

static void run_handler_forks_that_go_on(void) {
    child_goes_on = true;
    allocate_while_forking();
}

static void an_interrupted_call_goes_on_in_the_child(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_handler_forks_that_go_on);
}

/* With every call on its slow path, where the locks are. */
static void run_handler_forks_slowly(void) {
    must(t_mallopt(M_PERTURB, 0x11) == 1);
    must(t_mallopt(M_TRIM_THRESHOLD, 65536) == 1);
    run_handler_forks_that_go_on();
}

static void an_interrupted_slow_call_goes_on_in_the_child(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_handler_forks_slowly);
}

/* ---- stdio ---------------------------------------------------------------------------------------
 * fork takes the lock of stdio's list of streams after its prepare handlers; fflush(NULL) holds that
 * lock and waits for the lock of each stream; a reader holds the lock of its stream while it
 * allocates.  An allocator that holds a lock from prepare on closes the circle.
 */
static ssize_t allocate_in_read(void *cookie, char *buffer, size_t size) {
    struct rng *rng = cookie;
    for (int i = 0; i < 20; i++)
        churn(rng);
    memset(buffer, 'x', size);
    buffer[size - 1] = '\n';
    return (ssize_t)size;
}

static void *read_lines(void *argument) {
    struct rng rng = {(uintptr_t)argument};
    cookie_io_functions_t functions = {.read = allocate_in_read};
    FILE *stream = fopencookie(&rng, "r", functions);
    must(stream != NULL);
    char *line = NULL;
    size_t length = 0;
    while (!atomic_load(&stop_churning))
        must(getline(&line, &length, stream) > 0);
    free(line);
    fclose(stream);
    return NULL;
}

/* Pauses between two flushes: without, fork waits for seconds until it gets the list's lock. */
static void *flush_all_streams(void *argument) {
    while (!atomic_load(&stop_churning)) {
        fflush(NULL);
        usleep(100);
    }
    return argument;
}

static void run_stdio_and_forks(void) {
    pthread_t threads[4];
    for (size_t i = 0; i < 3; i++)
        threads[i] = start(read_lines, (void *)(uintptr_t)mix64(seed + i));
    threads[3] = start(flush_all_streams, NULL);
    for (int i = 0; i < FORKS * 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(CHILD_LIMIT_SECONDS);
            t_free(filled(1000, 1));
            _exit(0);
        }
        must(pid > 0 && wait_for(pid) == 0);
    }
    atomic_store(&stop_churning, true);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        join(threads[i]);
    empty_table();
}

static void fork_does_not_deadlock_with_stdio(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_stdio_and_forks);
}

/* ---- What other threads had cached ------------------------------------------------------------ */

#if !ON_GLIBC /* COMPAT-13 */
enum { CACHING_THREADS = 16, CACHED_BATCH = 64, HELD_BLOCKS = 60000, LEFT_LIMIT_KIB = 256 };

static atomic_int caches_filled;

/* Makes many size classes hot, so that much stays in the thread's cache, and waits. */
static void *fill_cache(void *argument) {
    for (size_t round = 0; round < 40; round++) {
        for (size_t size = 64; size <= 2048; size += 128) {
            void *batch[CACHED_BATCH];
            for (size_t i = 0; i < CACHED_BATCH; i++)
                batch[i] = filled(size, i);
            for (size_t i = 0; i < CACHED_BATCH; i++)
                check_and_free(batch[i], size, i);
        }
    }
    atomic_fetch_add(&caches_filled, 1);
    while (!atomic_load(&stop_churning))
        usleep(1000);
    return argument;
}

/* Those threads do not exist in the child, so nothing of theirs may count as in use any more. */
static void *fork_and_free(void *held_blocks) {
    void **held = held_blocks;
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT_SECONDS);
        for (size_t i = 0; i < HELD_BLOCKS; i++)
            check_and_free(held[i], 1000, i);
        (void)t_malloc_trim(0);
        size_t left = t_mallinfo2().uordblks / KIB;
        printf("# %zu KiB count as in use in a child that has freed everything\n", left);
        fflush(stdout);
        must(left <= LEFT_LIMIT_KIB);
        _exit(0);
    }
    must(wait_for(pid) == 0);
    return NULL;
}

static void run_orphaned_caches(void) {
    pthread_t threads[CACHING_THREADS];
    void **held = map_table(HELD_BLOCKS * sizeof *held);
    for (size_t i = 0; i < HELD_BLOCKS; i++) /* caches may be as large as the heap warrants */
        held[i] = filled(1000, i);
    for (size_t i = 0; i < CACHING_THREADS; i++)
        threads[i] = start(fill_cache, NULL);
    while (atomic_load(&caches_filled) < CACHING_THREADS)
        usleep(1000);
    fork_and_free(held);
    join(start(fork_and_free, held)); /* by a thread that has no cache of its own */
    atomic_store(&stop_churning, true);
    for (size_t i = 0; i < CACHING_THREADS; i++)
        join(threads[i]);
}

static void a_child_takes_over_what_threads_had_cached(void **state) {
    (void)state;
    assert_child_succeeds(run_orphaned_caches);
}
#endif

/* ---- Pages that a child copies when it frees ---------------------------------------------------- */

#if !UNDER_SANITIZER
enum { COPIED_BLOCKS = 200000, COPIED_BLOCK_BYTES = 200, COPIED_LIMIT_PAGES = 100 };

/* The lowest bits of a status hold no more than 255: the count travels through a pipe. */
static size_t pages_copied_by_freeing(void **blocks) {
    int ends[2];
    must(pipe(ends) == 0);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        (void)rollup_bytes("\nPrivate_Dirty:"); /* touches the stack that the next call needs */
        size_t before = rollup_bytes("\nPrivate_Dirty:");
        for (size_t i = 0; i < COPIED_BLOCKS; i += 10)
            t_free(blocks[i]);
        size_t pages = (rollup_bytes("\nPrivate_Dirty:") - before) / PAGE;
        must(write(ends[1], &pages, sizeof pages) == sizeof pages);
        _exit(0);
    }
    size_t pages = 0;
    must(read(ends[0], &pages, sizeof pages) == sizeof pages);
    must(wait_for(pid) == 0);
    return pages;
}

static void run_copied_pages(void) {
    void **blocks = map_table(COPIED_BLOCKS * sizeof *blocks);
    for (size_t i = 0; i < COPIED_BLOCKS; i++)
        blocks[i] = filled(COPIED_BLOCK_BYTES, i);
    size_t pages = pages_copied_by_freeing(blocks);
    printf("# a child that frees %d of %d blocks of %d bytes copies %zu pages\n",
           COPIED_BLOCKS / 10, COPIED_BLOCKS, COPIED_BLOCK_BYTES, pages);
    must(ON_GLIBC || pages <= COPIED_LIMIT_PAGES); /* COMPAT-7 */
}

static void a_child_that_frees_copies_few_pages(void **state) {
    (void)state;
    assert_child_succeeds(run_copied_pages);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fork_in_a_signal_handler),
        cmocka_unit_test(an_interrupted_call_goes_on_in_the_child),
        cmocka_unit_test(an_interrupted_slow_call_goes_on_in_the_child),
        cmocka_unit_test(fork_does_not_deadlock_with_stdio),
#if !ON_GLIBC
        cmocka_unit_test(a_child_takes_over_what_threads_had_cached),
#endif
#if !UNDER_SANITIZER
        cmocka_unit_test(a_child_that_frees_copies_few_pages),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
