/* SPDX-License-Identifier: MIT
 *
 * test_threads.c: threads in large numbers, what they cost, and what they leave behind.  What their
 * destructors may do is in test_thread_end.c.
 *
 * Each test runs in a child, so that none inherits the threads, caches or dirty memory of another.
 *
 * runner: timeout=900
 */
#include "thread_support.h"

enum {
    ALIVE_THREADS = UNDER_SANITIZER ? 200 : 4096,
    SEQUENCE_THREADS = UNDER_SANITIZER ? 2000 : 100000,
};

/* ---- Very many threads at once, and one after the other ------------------------------------------ */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t waiting;
    bool go;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false};

/* Waits until the main thread opens the gate. */
static void wait_at_gate(void) {
    pthread_mutex_lock(&gate.mutex);
    gate.waiting++;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.go)
        pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
}

static void wait_for_waiting(size_t count) {
    pthread_mutex_lock(&gate.mutex);
    while (gate.waiting < count)
        pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
}

static void open_gate(void) {
    pthread_mutex_lock(&gate.mutex);
    gate.go = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
}

static void close_gate(void) {
    gate.go = false;
    gate.waiting = 0;
}

static void *hold_blocks(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    void *blocks[BLOCKS_HELD];
    for (size_t i = 0; i < BLOCKS_HELD; i++)
        blocks[i] = filled(size_of_block(i), self + i);
    wait_at_gate();
    for (size_t i = 0; i < BLOCKS_HELD; i++)
        check_and_free(blocks[i], size_of_block(i), self + i);
    return NULL;
}

static void run_many_alive(void) {
    pthread_t *threads = map_table(ALIVE_THREADS * sizeof *threads);
    for (size_t i = 0; i < ALIVE_THREADS; i++)
        threads[i] = start(hold_blocks, (void *)i);
    wait_for_waiting(ALIVE_THREADS);
    open_gate();
    for (size_t i = 0; i < ALIVE_THREADS; i++)
        join(threads[i]);
}

static void thousands_of_threads_alive_hold_blocks(void **state) {
    (void)state;
    assert_child_succeeds(run_many_alive);
}

static void *allocate_a_little(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    void *blocks[4];
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        blocks[i] = filled(size_of_block(i + self % 50), self);
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        check_and_free(blocks[i], size_of_block(i + self % 50), self);
    return NULL;
}

static void run_sequence(void) {
    size_t early = 0;
    for (size_t i = 0; i < SEQUENCE_THREADS; i++) {
        join(start(allocate_a_little, (void *)i));
        if (i == SEQUENCE_THREADS / 10)
            early = resident_bytes();
    }
    must(UNDER_SANITIZER || resident_bytes() < early + 2 * MIB);
}

static void a_long_sequence_of_threads_leaves_nothing(void **state) {
    (void)state;
    assert_child_succeeds(run_sequence);
}

/* ---- Waves ---------------------------------------------------------------------------------- */

enum { WAVE_THREADS = 32, WAVE_COUNT = UNDER_SANITIZER ? 6 : 40, WAVE_BLOCKS = 2000 };

/* Blocks that one wave leaves to the next, which frees them: their owners are gone by then. */
static pthread_barrier_t wave_is_high; /* all threads of a wave hold all their blocks */
static void *left_over[WAVE_THREADS][WAVE_BLOCKS / 4];

static void *take_part_in_wave(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    void **blocks = map_table(WAVE_BLOCKS * sizeof *blocks);
    for (size_t i = 0; i < WAVE_BLOCKS; i++)
        blocks[i] = filled(size_of_block(i), i);
    pthread_barrier_wait(&wave_is_high);
    for (size_t i = 0; i < WAVE_BLOCKS; i++) {
        if (i % 4 != 0) {
            check_and_free(blocks[i], size_of_block(i), i);
            continue;
        }
        if (left_over[self][i / 4] != NULL)
            check_and_free(left_over[self][i / 4], size_of_block(i), i);
        left_over[self][i / 4] = blocks[i];
    }
    munmap(blocks, WAVE_BLOCKS * sizeof *blocks);
    return NULL;
}

/* What is kept for the next wave may vary; what cannot be given back may not. */
static size_t resident_after_trim(void) {
    (void)t_malloc_trim(0);
    return resident_bytes();
}

static void run_resident_waves(void) {
    pthread_t threads[WAVE_THREADS];
    size_t early = 0;
    must(pthread_barrier_init(&wave_is_high, NULL, WAVE_THREADS) == 0);
    for (size_t wave = 0; wave < WAVE_COUNT; wave++) {
        for (size_t i = 0; i < WAVE_THREADS; i++)
            threads[i] = start(take_part_in_wave, (void *)i);
        for (size_t i = 0; i < WAVE_THREADS; i++)
            join(threads[i]);
        if (wave == WAVE_COUNT / 4)
            early = resident_after_trim();
    }
    size_t late = resident_after_trim();
    printf("# resident after a quarter of the waves %zu KiB, after all %zu KiB\n", early / KIB,
           late / KIB);
    fflush(stdout);
    must(UNDER_SANITIZER || late <= early + early / 8 + 4 * MIB);
}

static void waves_of_threads_do_not_grow_the_heap(void **state) {
    (void)state;
    assert_child_succeeds(run_resident_waves);
}

/* ---- Blocks that outlive their thread ------------------------------------------------------------ */

enum { HEIRLOOMS = 3000 };

static void *heirlooms[HEIRLOOMS];

static void *allocate_heirlooms(void *argument) {
    (void)argument;
    for (size_t i = 0; i < HEIRLOOMS; i++)
        heirlooms[i] = filled(i % 500 == 499 ? i * 100 : size_of_block(i), i);
    return NULL;
}

static void *free_heirlooms(void *argument) {
    (void)argument;
    for (size_t i = 0; i < HEIRLOOMS; i++)
        check_and_free(heirlooms[i], i % 500 == 499 ? i * 100 : size_of_block(i), i);
    return NULL;
}

static void run_heirlooms(void) {
    for (int round = 0; round < 20; round++) {
        join(start(allocate_heirlooms, NULL));
        if (round % 2 == 0)
            join(start(free_heirlooms, NULL));
        else
            free_heirlooms(NULL);
    }
}

static void blocks_outlive_the_thread_that_made_them(void **state) {
    (void)state;
    assert_child_succeeds(run_heirlooms);
}

/* ---- What an idle thread costs -------------------------------------------------------------------- */

enum { IDLE_THREADS = 200 };
#define IDLE_LIMIT_BYTES (4 * KIB)

static size_t class_sizes[400];
static size_t class_count;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void find_class_sizes(void) {
    for (size_t size = 0; size < 16 * KIB && class_count < COUNT_OF(class_sizes);) {
        void *block = t_malloc(size);
        class_sizes[class_count++] = t_malloc_usable_size(block);
        t_free(block);
        size = class_sizes[class_count - 1] + 1;
    }
}

/* Allocates and frees ten blocks of each class; count 0 makes it an equal thread without calls. */
static void *visit_classes_then_idle(void *argument) {
    size_t count = (uintptr_t)argument;
    volatile char stack[12 * KIB];
    for (size_t i = 0; i < sizeof stack; i += 1024)
        stack[i] = 0; /* both kinds of threads have touched as much of their stack */
    pthread_mutex_lock(&one_at_a_time);
    for (size_t i = 0; i < class_count; i++) {
        void *blocks[10];
        for (size_t k = 0; k < count; k++)
            blocks[k] = filled(class_sizes[i], k);
        for (size_t k = 0; k < count; k++)
            check_and_free(blocks[k], class_sizes[i], k);
    }
    pthread_mutex_unlock(&one_at_a_time);
    wait_at_gate();
    return NULL;
}

static size_t resident_with_idle_threads(uintptr_t count) {
    pthread_t threads[IDLE_THREADS];
    close_gate();
    for (size_t i = 0; i < IDLE_THREADS; i++)
        threads[i] = start(visit_classes_then_idle, (void *)count);
    wait_for_waiting(IDLE_THREADS);
    size_t resident = resident_bytes();
    open_gate();
    for (size_t i = 0; i < IDLE_THREADS; i++)
        join(threads[i]);
    return resident;
}

static void run_idle_threads(void) {
    find_class_sizes();
    gate.go = true;
    join(start(visit_classes_then_idle, (void *)10)); /* warms what all threads share */
    size_t without = resident_with_idle_threads(0);
    size_t with = resident_with_idle_threads(10);
    size_t extra = with > without ? (with - without) / IDLE_THREADS : 0;
    printf("# %d idle threads that visited %zu size classes cost %zu bytes each\n", IDLE_THREADS,
           class_count, extra);
    fflush(stdout);
    must(UNDER_SANITIZER || ON_GLIBC || extra <= IDLE_LIMIT_BYTES); /* COMPAT-3 */
}

static void an_idle_thread_costs_next_to_nothing(void **state) {
    (void)state;
    assert_child_succeeds(run_idle_threads);
}

/* ---- Long buffers that come and go --------------------------------------------------------------- */

enum { BUFFER_THREADS = 12, BUFFER_ROUNDS = 4000, BUFFER_BYTES = 300000, BUFFER_STEP = 100 };

/* What a buffer holds at its begin and its end says whose it is.  Its length is the same for a while, then another each time.
 * Some are written whole. */
static void *take_buffers_in_turn(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    for (size_t round = 0; round < BUFFER_ROUNDS; round++) {
        bool varied = round / BUFFER_STEP % 2;
        size_t size = BUFFER_BYTES + (varied ? round : round / BUFFER_STEP) * 7919 % 600000;
        uintptr_t *block = t_malloc(size), *last;
        must(block != NULL);
        last = block + size / sizeof *block - 1;
        if (round % 64 == 0)
            memset(block, 1, size);
        *block = *last = self;
        if (round % 16 == 0)
            sched_yield();
        must(*block == self && *last == self);
        if (round % 8 < 4) {
            block = t_realloc(block, round % 8 < 2 ? size / 2 + 100000 : size + 100000);
            must(block != NULL && *block == self);
        }
        t_free(block);
    }
    return NULL;
}

static void run_buffers(void) {
    size_t before = resident_bytes();
    pthread_t threads[BUFFER_THREADS];
    for (size_t i = 0; i < BUFFER_THREADS; i++)
        threads[i] = start(take_buffers_in_turn, (void *)i);
    for (int i = 0; i < 50; i++) {
        t_malloc_trim(0);
        sched_yield();
    }
    for (size_t i = 0; i < BUFFER_THREADS; i++)
        join(threads[i]);
    t_malloc_trim(0);
    /* glibc's arenas keep more. */
    must(UNDER_SANITIZER || ON_GLIBC || resident_bytes() < before + 2 * MIB);
}

static void threads_take_long_buffers_in_turn(void **state) {
    (void)state;
    assert_child_succeeds(run_buffers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thousands_of_threads_alive_hold_blocks),
        cmocka_unit_test(a_long_sequence_of_threads_leaves_nothing),
        cmocka_unit_test(waves_of_threads_do_not_grow_the_heap),
        cmocka_unit_test(blocks_outlive_the_thread_that_made_them),
        cmocka_unit_test(an_idle_thread_costs_next_to_nothing),
        cmocka_unit_test(threads_take_long_buffers_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
