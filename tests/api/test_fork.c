/* SPDX-License-Identifier: MIT
 *
 * test_fork.c: fork in programs whose other threads are allocating at that moment.
 *
 * A child that hangs is ended by SIGALRM, so that every deadlock is a failure.
 *
 * runner: timeout=900
 */
#include "fork_support.h"

#include <spawn.h>

static uint64_t seed;

/* Waits for a child that must end well. */
static void expect_success(pid_t pid) {
    must(pid > 0);
    int status = wait_for(pid);
    if (status != 0)
        fprintf(stderr, "# child of a fork ended with status 0x%x\n", (unsigned)status);
    must(status == 0);
}

static pid_t fork_child(void (*body)(uint64_t), uint64_t child_seed) {
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_LIMIT_SECONDS);
        body(child_seed);
        _exit(0);
    }
    return pid;
}

/* ---- One fork after the other, and many at once ------------------------------------------------ */

static void run_forks(void) {
    start_churners(seed);
    for (uint64_t i = 0; i < FORKS; i++)
        expect_success(fork_child(use_heap_with_threads, seed + i));
    stop_churners();
}

static void children_use_and_free_everything(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_forks);
}

/* The same where every twentieth block is a mapping. */
static void run_forks_with_mappings(void) {
    must(t_mallopt(M_MMAP_THRESHOLD, 16 << 10) == 1);
    run_forks();
}

static void children_use_and_free_mappings(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_forks_with_mappings);
}

static void *fork_repeatedly(void *argument) {
    uint64_t base = (uintptr_t)argument;
    struct rng rng = {base};
    for (uint64_t i = 0; i < FORKS / 4; i++) {
        for (int k = 0; k < 50; k++)
            churn(&rng);
        expect_success(fork_child(use_heap_alone, base + i));
    }
    return NULL;
}

static void run_concurrent_forks(void) {
    pthread_t threads[4];
    start_churners(seed);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        threads[i] = start(fork_repeatedly, (void *)(uintptr_t)mix64(seed + 1000 * i));
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        join(threads[i]);
    stop_churners();
}

static void several_threads_fork_at_once(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_concurrent_forks);
}

/* ---- A chain: each child starts threads of its own and forks again ----------------------------- */

enum { CHAIN_LENGTH = 5 };

/* Under TSan only the first of the chain has threads. */
static void extend_chain(uint64_t depth) {
    use_heap_with_threads(seed + depth);
    if (depth == CHAIN_LENGTH)
        return;
    bool threads = !UNDER_TSAN || depth == 0;
    if (threads)
        start_churners(seed + depth);
    for (uint64_t i = 0; i < 2; i++)
        expect_success(fork_child(extend_chain, i == 0 ? depth + 1 : CHAIN_LENGTH));
    if (threads)
        stop_churners();
}

static void run_chain(void) {
    extend_chain(0);
}

static void a_child_forks_again(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_chain);
}

/* ---- The program's own atfork handlers use the heap -------------------------------------------- */

static void *kept_over_fork;

static void allocate_before_fork(void) {
    must(kept_over_fork == NULL);
    kept_over_fork = filled(777, 777);
    t_free(filled(200000, 1));
}

static void free_after_fork(void) {
    t_free(filled(777, 1));
    check_and_free(kept_over_fork, 777, 777);
    kept_over_fork = NULL;
}

static void run_atfork_handlers(void) {
    must(pthread_atfork(allocate_before_fork, free_after_fork, free_after_fork) == 0);
    run_forks();
}

static void atfork_handlers_use_the_heap(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_atfork_handlers);
}

/* ---- _Fork, vfork, posix_spawn ------------------------------------------------------------------ */

/* _Fork runs no handlers at all.  POSIX lets its child call async-signal-safe functions only, and
 * glibc's malloc may hang in it (COMPAT-6); Quarry promises more.  TSan does not know _Fork. */
#if !ON_GLIBC && !UNDER_TSAN
static void run_plain_forks(void) {
    start_churners(seed);
    for (uint64_t i = 0; i < FORKS; i++) {
        pid_t pid = _Fork();
        if (pid == 0) {
            alarm(CHILD_LIMIT_SECONDS);
            use_heap_alone(seed + i);
            _exit(0);
        }
        expect_success(pid);
    }
    stop_churners();
}

static void a_child_of_plain_fork_uses_the_heap(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_plain_forks);
}
#endif

/* The child of vfork runs in its parent's memory, as the thread that called. */
static void *made_in_vfork_child;

__attribute__((noinline)) static void vfork_once(void) {
    pid_t pid = vfork();
    if (pid == 0) {
        made_in_vfork_child = t_malloc(3000);
        t_free(t_malloc(100));
        t_free(t_malloc(200000));
        _exit(0);
    }
    expect_success(pid);
}

static void run_vforks(void) {
    start_churners(seed);
    struct rng rng = {seed};
    for (int i = 0; i < FORKS; i++) {
        vfork_once();
        if (!UNDER_TSAN) { /* there vfork is fork */
            must(made_in_vfork_child != NULL);
            t_free(made_in_vfork_child);
        }
        churn(&rng);
    }
    stop_churners();
}

static void vfork_shares_the_heap(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_vforks);
}

#if !UNDER_TSAN /* there vfork is fork, and a child of threads may have none */
/* A child of fork whose first thread goes by the fast paths alone, while the vfork child of another thread, one that has
 * never allocated, is the first to come by a slow one.  It is not the thread that forked, though it is the first of its
 * process: to take over what vanished threads had would be to take what the first thread has. */
static void *vfork_first(void *unused) {
    vfork_once();
    return unused;
}

static void *fill_and_check(void *argument) {
    enum { ROUNDS = UNDER_SANITIZER ? 2000 : 50000, AT_ONCE = 24, BYTES = 48 };
    unsigned char mark = (unsigned char)(uintptr_t)argument, *block[AT_ONCE];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++) {
            must((block[i] = t_malloc(BYTES)) != NULL);
            memset(block[i], mark, BYTES);
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int at = 0; at < BYTES; at++)
                must(block[i][at] == mark);
        for (int i = 0; i < AT_ONCE; i++)
            t_free(block[i]);
    }
    return NULL;
}

static void run_vfork_in_child(void) {
    enum { THREADS = 2 };
    pthread_t threads[THREADS];
    fill_and_check(NULL);
    join(start(churn_a_little, (void *)(uintptr_t)seed)); /* its stack is there for the next one */
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_LIMIT_SECONDS);
        join(start(vfork_first, NULL));
        for (uintptr_t i = 0; i < THREADS; i++)
            threads[i] = start(fill_and_check, (void *)(i + 1));
        fill_and_check((void *)(uintptr_t)(THREADS + 1));
        for (size_t i = 0; i < THREADS; i++)
            join(threads[i]);
        _exit(0);
    }
    expect_success(pid);
    empty_table();
}

static void vfork_in_a_child_takes_nothing_over(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_vfork_in_child);
}
#endif

static void run_spawns(void) {
    char *arguments[] = {"true", NULL};
    char *environment[] = {NULL};
    struct rng rng = {seed};
    start_churners(seed);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = 0;
        must(posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environment) == 0);
        churn(&rng);
        expect_success(pid);
    }
    stop_churners();
}

static void posix_spawn_leaves_the_heap_alone(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_spawns);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_use_and_free_everything),
        cmocka_unit_test(children_use_and_free_mappings),
        cmocka_unit_test(several_threads_fork_at_once),
        cmocka_unit_test(a_child_forks_again),
        cmocka_unit_test(atfork_handlers_use_the_heap),
#if !ON_GLIBC && !UNDER_TSAN
        cmocka_unit_test(a_child_of_plain_fork_uses_the_heap),
#endif
        cmocka_unit_test(vfork_shares_the_heap),
#if !UNDER_TSAN
        cmocka_unit_test(vfork_in_a_child_takes_nothing_over),
#endif
        cmocka_unit_test(posix_spawn_leaves_the_heap_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
