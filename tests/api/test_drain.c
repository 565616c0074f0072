/* SPDX-License-Identifier: MIT
 *
 * test_drain.c: malloc_trim takes what threads that sleep have cached, and loses nothing of threads that work;
 * what is free goes though a program hardly calls any more.
 */
#include "thread_support.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
    SLEEPERS = 16,
    WORKERS = 3,
    HELD = 1200,
    CHANGES = 8000,
    TRIMS = UNDER_SANITIZER ? 100 : 400
};

static size_t small_size(uint64_t number) {
    return 16 + number % 1000;
}

/* ---- Threads that sleep -------------------------------------------------------------------------- */

#if !UNDER_SANITIZER && !ON_GLIBC
static sem_t asleep, awake;

static void *work_and_sleep(void *argument) {
    struct rng rng = {(uint64_t)(uintptr_t)argument + 1};
    void **blocks = t_calloc(HELD, sizeof *blocks);
    for (int i = 0; i < CHANGES; i++) {
        void **block = &blocks[rng_below(&rng, HELD)];
        size_t size = small_size(rng_next(&rng));
        t_free(*block);
        must((*block = t_malloc(size)) != NULL);
        memset(*block, 1, size);
    }
    for (int i = 0; i < HELD; i++)
        t_free(blocks[i]);
    t_free(blocks);
    sem_post(&asleep);
    sem_wait(&awake);
    for (int i = 0; i < 100; i++)
        check_and_free(filled(small_size((uint64_t)i * 37), 1), small_size((uint64_t)i * 37), 1);
    return NULL;
}

/* Of what each has cached a page for each size may stay, and its stack. */
static void run_sleepers(void) {
    pthread_t threads[SLEEPERS];
    sem_init(&asleep, 0, 0);
    sem_init(&awake, 0, 0);
    size_t before = resident_bytes();
    for (size_t i = 0; i < SLEEPERS; i++)
        threads[i] = start(work_and_sleep, (void *)i);
    for (size_t i = 0; i < SLEEPERS; i++)
        sem_wait(&asleep);
    size_t cached = resident_bytes() - before;
    must(t_malloc_trim(0) == 1);
    size_t left = resident_bytes() - before;
    printf("# %zu KiB for each sleeper, %zu after malloc_trim\n", cached / SLEEPERS / KIB,
           left / SLEEPERS / KIB);
    fflush(stdout);
    must(cached > SLEEPERS * 200 * KIB);
    must(left < cached / 2);
    for (size_t i = 0; i < SLEEPERS; i++)
        sem_post(&awake);
    for (size_t i = 0; i < SLEEPERS; i++)
        join(threads[i]);
}

static void what_sleepers_have_cached_is_returned(void **state) {
    (void)state;
    assert_child_succeeds(run_sleepers);
}
#endif

/* ---- Threads that work ----------------------------------------------------------------------------- */

static atomic_bool stop;

struct held {
    void *block;
    size_t size;
    uint64_t seed;
};

static void change(struct held *held, struct rng *rng) {
    if (held->block)
        check_and_free(held->block, held->size, held->seed);
    held->seed = rng_next(rng);
    held->size = small_size(held->seed) >> held->seed % 7;
    held->block = rng_below(rng, 3) ? filled(held->size, held->seed) : NULL;
}

/* Mostly few blocks of few sizes, so that the tops move up and down at each moment. */
static void *work_on(void *argument) {
    enum { BLOCKS = 400 };
    static struct held blocks[WORKERS][BLOCKS];
    struct held *mine = blocks[(uintptr_t)argument];
    struct rng rng = {(uint64_t)(uintptr_t)argument + 7};
    while (!atomic_load(&stop)) {
        size_t most = rng_below(&rng, 50) == 0 ? BLOCKS : 12;
        for (size_t i = 0; i < 200; i++)
            change(&mine[rng_below(&rng, most)], &rng);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        if (mine[i].block)
            check_and_free(mine[i].block, mine[i].size, mine[i].seed);
    return NULL;
}

static void run_workers(void) {
    pthread_t threads[WORKERS];
    for (size_t i = 0; i < WORKERS; i++)
        threads[i] = start(work_on, (void *)i);
    for (int i = 0; i < TRIMS; i++) {
        (void)t_malloc_trim(0);
        sched_yield();
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < WORKERS; i++)
        join(threads[i]);
}

static void trimming_takes_nothing_that_is_in_use(void **state) {
    (void)state;
    assert_child_succeeds(run_workers);
}

/* ---- A program that does little ------------------------------------------------------------------- */

#if !UNDER_SANITIZER && !ON_GLIBC
enum { LITTLE_ROUNDS = 4, LITTLE_BLOCKS = 400, LITTLE_MS = 40000 };

/* Rounds of 24 MB, after which a program keeps what it will want again. */
static void breathe(void) {
    static void *blocks[LITTLE_BLOCKS];
    struct rng rng = {7};
    for (int round = 0; round < LITTLE_ROUNDS; round++) {
        for (size_t i = 0; i < LITTLE_BLOCKS; i++) {
            size_t size = 20000 + rng_below(&rng, 80000);
            must((blocks[i] = t_malloc(size)) != NULL);
            memset(blocks[i], 1, size);
        }
        for (size_t i = 0; i < LITTLE_BLOCKS; i++)
            t_free(blocks[i]);
    }
}

static void do_little(size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        void *first = t_malloc(40), *second = t_malloc(100);
        t_free(first);
        t_free(second);
    }
}

/* What it calls for is in its cache, so that no other way leads to what it has freed. */
static void run_little(void) {
    do_little(3000);
    size_t before = resident_bytes(), after;
    breathe();
    must((after = resident_bytes()) > before + 16 * MIB);
    int ms = 0;
    for (; resident_bytes() > before + 8 * MIB && ms < LITTLE_MS; ms += 5) {
        do_little(20);
        usleep(5000);
    }
    printf("# %zu KiB after %d rounds, %zu after %d ms\n", after / KIB, LITTLE_ROUNDS,
           resident_bytes() / KIB, ms);
    must(ms < LITTLE_MS);
}

static void what_is_free_goes_while_a_program_does_little(void **state) {
    (void)state;
    assert_child_succeeds(run_little);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#if !UNDER_SANITIZER && !ON_GLIBC
        cmocka_unit_test(what_sleepers_have_cached_is_returned),
        cmocka_unit_test(what_is_free_goes_while_a_program_does_little),
#endif
        cmocka_unit_test(trimming_takes_nothing_that_is_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
