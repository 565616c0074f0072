/* SPDX-License-Identifier: MIT
 *
 * test_model_threads.c: random calls from many threads that pass their blocks to each other.
 *
 * A block that travels carries its own description (struct parcel) and the pattern that must still
 * hold when another thread has got it.  Parcels travel in two ways: through a pool of atomic slots,
 * one exchange each, and through bounded queues with a mutex.  Threads come and go in waves; what
 * is in the pool then outlives the thread that allocated it.  Each thread draws from a generator of
 * its own, so that a seed repeats its calls, though not how the threads interleave.
 *
 *   QUARRY_TEST_SEED=0x... QUARRY_TEST_OPS=... test_model_threads
 *
 * runner: timeout=900
 */
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "api_under_test.h"
#ifndef TEST_LIBC
#include "slab_internal.h"
#endif

enum { WAVES = 6, THREADS = 24, POOL = 512, QUEUE_LENGTH = 64, OWN_BLOCKS = 64 };

struct parcel {
    size_t size; /* of the whole block, this header included */
    size_t usable;
    size_t alignment;
    uint64_t seed;
    uint64_t check; /* hash of the four above: an overwritten header must not be believed */
};

struct queue {
    pthread_mutex_t mutex;
    struct parcel *items[QUEUE_LENGTH];
    size_t first, count;
};

static _Atomic(struct parcel *) pool[POOL];
static struct queue queues[THREADS];
static uint64_t seed;
static uint64_t operations_per_thread;

static uint64_t header_check(const struct parcel *parcel) {
    return mix64(parcel->size ^ mix64(parcel->usable ^ mix64(parcel->alignment ^ parcel->seed)));
}

/* ---- Parcels ------------------------------------------------------------------------------------ */

static size_t random_size(struct rng *rng) {
    size_t dice = rng_below(rng, 1000);
    if (dice < 600)
        return rng_below(rng, 400);
    if (dice < 900)
        return rng_below(rng, 8 * KIB);
    if (dice < 980)
        return rng_between(rng, 1, 16) * PAGE + rng_below(rng, 3);
    return dice < 998 ? rng_below(rng, 512 * KIB) : rng_below(rng, 6 * MIB);
}

static void seal(struct parcel *parcel, size_t size, size_t alignment, struct rng *rng) {
    parcel->size = size;
    parcel->alignment = alignment;
    parcel->usable = t_malloc_usable_size(parcel);
    parcel->seed = rng_next(rng);
    parcel->check = header_check(parcel);
    must(parcel->usable >= size);
    pattern_fill(parcel + 1, size - sizeof *parcel, parcel->seed);
}

static struct parcel *make_parcel(struct rng *rng) {
    size_t size = sizeof(struct parcel) + random_size(rng);
    size_t alignment = 16;
    struct parcel *parcel = NULL;
    switch (rng_below(rng, 6)) {
    case 0:
        parcel = t_calloc(1, size);
        must(all_zero(parcel, size));
        break;
    case 1:
        alignment = (size_t)32 << rng_below(rng, 8);
        must(t_posix_memalign((void **)&parcel, alignment, size) == 0);
        break;
    default:
        parcel = t_malloc(size);
    }
    must(parcel != NULL && is_aligned(parcel, alignment));
    seal(parcel, size, alignment, rng);
    return parcel;
}

static void check_parcel(const struct parcel *parcel) {
    must(parcel->check == header_check(parcel));
    must(is_aligned(parcel, parcel->alignment));
    must(t_malloc_usable_size((void *)parcel) == parcel->usable);
    size_t length = parcel->size - sizeof *parcel;
    must(pattern_intact(parcel + 1, length, parcel->seed, length));
}

static void destroy_parcel(struct parcel *parcel) {
    if (parcel == NULL)
        return;
    check_parcel(parcel);
    t_free(parcel);
}

static struct parcel *resize_parcel(struct parcel *parcel, struct rng *rng) {
    check_parcel(parcel);
    struct parcel old = *parcel;
    size_t size = sizeof *parcel + random_size(rng);
    parcel = t_realloc(parcel, size);
    must(parcel != NULL);
    must(memcmp(parcel, &old, sizeof old) == 0);
    size_t kept = (size < old.size ? size : old.size) - sizeof old;
    must(pattern_intact(parcel + 1, old.size - sizeof old, old.seed, kept));
    seal(parcel, size, 16, rng);
    return parcel;
}

/* ---- Ways from thread to thread --------------------------------------------------------------- */

/* Returns what was in the slot before. */
static struct parcel *swap_into_pool(struct parcel *parcel, struct rng *rng) {
    return atomic_exchange_explicit(&pool[rng_below(rng, POOL)], parcel, memory_order_acq_rel);
}

/* Returns NULL, or the parcel if the queue is full. */
static struct parcel *send_to_queue(struct queue *queue, struct parcel *parcel) {
    pthread_mutex_lock(&queue->mutex);
    if (queue->count < QUEUE_LENGTH) {
        queue->items[(queue->first + queue->count++) % QUEUE_LENGTH] = parcel;
        parcel = NULL;
    }
    pthread_mutex_unlock(&queue->mutex);
    return parcel;
}

/* Frees everything in a queue, as a consumer that gets work in batches does; returns how many. */
static size_t drain_queue(struct queue *queue) {
    struct parcel *items[QUEUE_LENGTH];
    pthread_mutex_lock(&queue->mutex);
    size_t count = queue->count;
    for (size_t i = 0; i < count; i++)
        items[i] = queue->items[(queue->first + i) % QUEUE_LENGTH];
    queue->count = 0;
    pthread_mutex_unlock(&queue->mutex);
    for (size_t i = 0; i < count; i++)
        destroy_parcel(items[i]);
    return count;
}

/* ---- Threads ---------------------------------------------------------------------------------- */

/* As if the thread had had to wait for others again and again: it changes its shard. */
static void have_waited(void) {
#ifndef TEST_LIBC
    uint32_t shard = slab_home.shard;
    for (int i = 0; i < 64; i++)
        slab_shard_waited(shard);
#endif
}

static void run_operation(struct rng *rng, size_t self, struct parcel **own) {
    struct parcel **slot = &own[rng_below(rng, OWN_BLOCKS)];
    switch (rng_below(rng, 8)) {
    case 0:
    case 1:
        destroy_parcel(*slot);
        *slot = make_parcel(rng);
        break;
    case 2:
        if (*slot != NULL)
            *slot = resize_parcel(*slot, rng);
        break;
    case 3:
        destroy_parcel(swap_into_pool(make_parcel(rng), rng));
        break;
    case 4:
        *slot = swap_into_pool(*slot, rng);
        break;
    case 5:
        destroy_parcel(send_to_queue(&queues[(self + 1) % THREADS], make_parcel(rng)));
        break;
    case 6:
        if (rng_below(rng, 20) == 0)
            (void)drain_queue(&queues[self]);
        break;
    default:
        if (rng_below(rng, 20) == 0)
            have_waited();
        if (rng_below(rng, 3000) == 0)
            (void)t_malloc_trim(0);
    }
}

struct worker {
    pthread_t thread;
    uint64_t seed;
    size_t index;
};

static void *work(void *argument) {
    struct worker *worker = argument;
    struct rng rng = {worker->seed};
    struct parcel *own[OWN_BLOCKS] = {0};
    for (uint64_t i = 0; i < operations_per_thread; i++)
        run_operation(&rng, worker->index, own);
    for (size_t i = 0; i < OWN_BLOCKS; i++) {
        /* Half of what is left stays behind for others when this thread is gone. */
        destroy_parcel(i % 2 == 0 ? own[i] : swap_into_pool(own[i], &rng));
    }
    return NULL;
}

/* Threads of one wave end at different times, so that the next finds old threads beside new ones. */
static void run_waves(void) {
    static struct worker workers[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_mutex_init(&queues[i].mutex, NULL) == 0);
    for (size_t wave = 0; wave < WAVES; wave++) {
        for (size_t i = 0; i < THREADS; i++) {
            if (wave > 0)
                must(pthread_join(workers[i].thread, NULL) == 0);
            workers[i].index = i;
            workers[i].seed = mix64(seed + wave * THREADS + i);
            must(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
        }
    }
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_join(workers[i].thread, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        (void)drain_queue(&queues[i]);
    for (size_t i = 0; i < POOL; i++)
        destroy_parcel(atomic_exchange(&pool[i], NULL));
}

static void blocks_travel_between_threads_unharmed(void **state) {
    (void)state;
    seed = test_seed();
    operations_per_thread =
        number_from_environment("QUARRY_TEST_OPS", UNDER_SANITIZER ? 1500 : 5000);
    assert_child_succeeds(run_waves);
}

/* The same with settings that send every call down the slow paths. */
static void run_waves_without_caches(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, 0) == 1);
    must(t_mallopt(M_MXFAST, 0) == 1);
    must(t_mallopt(M_PERTURB, 0xa5) == 1);
    run_waves();
}

static void slow_settings_change_nothing(void **state) {
    (void)state;
    seed = test_seed() + 1;
    operations_per_thread =
        number_from_environment("QUARRY_TEST_OPS", UNDER_SANITIZER ? 500 : 3000);
    assert_child_succeeds(run_waves_without_caches);
}

/* One producer allocates, two consumers only free: no consumer ever allocates what it frees, so
 * memory must find its way back or the heap grows without bound. */
enum { PIPE_BLOCKS = UNDER_SANITIZER ? 40000 : 400000, PIPE_BLOCK_BYTES = 160 };

static atomic_bool producer_done;

static void *consume(void *argument) {
    struct queue *queue = argument;
    while (!atomic_load(&producer_done)) {
        if (drain_queue(queue) == 0)
            sched_yield();
    }
    (void)drain_queue(queue);
    return NULL;
}

static void run_pipe(void) {
    pthread_t consumers[2];
    for (size_t i = 0; i < 2; i++) {
        must(pthread_mutex_init(&queues[i].mutex, NULL) == 0);
        must(pthread_create(&consumers[i], NULL, consume, &queues[i]) == 0);
    }
    struct rng rng = {seed};
    size_t middle = 0;
    for (size_t i = 0; i < PIPE_BLOCKS; i++) {
        struct parcel *parcel = t_malloc(PIPE_BLOCK_BYTES);
        must(parcel != NULL);
        seal(parcel, PIPE_BLOCK_BYTES, 16, &rng);
        while ((parcel = send_to_queue(&queues[i % 2], parcel)) != NULL)
            sched_yield();
        if (i == PIPE_BLOCKS / 4)
            middle = resident_bytes();
    }
    atomic_store(&producer_done, true);
    for (size_t i = 0; i < 2; i++)
        must(pthread_join(consumers[i], NULL) == 0);
    must(UNDER_SANITIZER || resident_bytes() < middle + 16 * MIB);
}

static void one_sided_traffic_does_not_grow_the_heap(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_pipe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_travel_between_threads_unharmed),
        cmocka_unit_test(slow_settings_change_nothing),
        cmocka_unit_test(one_sided_traffic_does_not_grow_the_heap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
