/* SPDX-License-Identifier: MIT
 *
 * A process to be looked at from outside.  It announces on stdout what it has done, and waits for a
 * line on stdin before it goes on; meanwhile nothing moves, but the threads of "busy".
 *
 * usage: public quiet|busy
 */
#include "self_check.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum {
    BLOCKS = 10000,
    FREED = 3000,
    BLOCK_BYTES = 200,
    MAPPINGS = 5,
    RUNS = 4,
    THREADS = 4,
    HELD = 1000,
};

static void wait_for_line(const char *announcement) {
    char c;
    say("%s\n", announcement);
    do
        if (read(STDIN_FILENO, &c, 1) != 1)
            _exit(5);
    while (c != '\n');
}

/* A file below all else that is mapped, as programs have that choose their addresses. */
static void map_low(void) {
    int file = open("/bin/sh", O_RDONLY);
    MUST(file >= 0);
    MUST(mmap((void *)0x100000, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, file, 0) ==
         (void *)0x100000);
    close(file);
}

/* ---- quiet ---- */

static void *cache_a_few(void *barrier) {
    void *blocks[40];
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 40; i++)
            blocks[i] = malloc(BLOCK_BYTES);
        for (int i = 0; i < 40; i++)
            free(blocks[i]);
    }
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    return NULL;
}

static void run_quiet(void) {
    static char *blocks[BLOCKS];
    static const size_t mapping_bytes[MAPPINGS] = {1 << 20, 1500000, 300000, 5000000, 131072},
                        run_bytes[RUNS] = {20000, 50000, 100000, 40960};
    pthread_barrier_t barrier;
    pthread_t thread;
    MUST(mallopt(M_MMAP_THRESHOLD, 131072) == 1);
    free(malloc(1));
    wait_for_line("started");
    MUST(pthread_barrier_init(&barrier, NULL, 2) == 0);
    MUST(pthread_create(&thread, NULL, cache_a_few, &barrier) == 0);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = malloc(BLOCK_BYTES);
    wait_for_line("allocated");
    for (int i = 0; i < FREED; i++) {
        free(blocks[3 * i]);
        say("freed %p\n", (void *)blocks[3 * i]);
        blocks[3 * i] = NULL;
    }
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i])
            say("block %p\n", (void *)blocks[i]);
    for (int i = 0; i < MAPPINGS; i++)
        say("mapping %p %zu\n", malloc(mapping_bytes[i]), mapping_bytes[i]);
    for (int i = 0; i < RUNS; i++)
        say("run %p %zu\n", malloc(run_bytes[i]), run_bytes[i]);
    wait_for_line("freed");
    pthread_barrier_wait(&barrier);
    MUST(pthread_join(thread, NULL) == 0);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    malloc_trim(0);
    wait_for_line("trimmed");
}

/* ---- busy ---- */

static atomic_int stop, ready;

static void *churn(void *argument) {
    unsigned random = (unsigned)(uintptr_t)argument;
    void *held[HELD], *large = NULL;
    for (int i = 0; i < HELD; i++)
        held[i] = malloc(BLOCK_BYTES);
    atomic_fetch_add(&ready, 1);
    while (!atomic_load(&stop)) {
        for (int i = 0; i < 100; i++) { /* in bulk, so that caches spill and slabs open and close */
            random = random * 1103515245 + 12345;
            unsigned first = (random >> 8) % (HELD - 200);
            for (unsigned j = first; j < first + 200; j++)
                free(held[j]);
            for (unsigned j = first; j < first + 200; j++)
                held[j] = malloc(BLOCK_BYTES);
        }
        free(large);
        large = malloc(random % 1000000);
    }
    for (int i = 0; i < HELD; i++)
        free(held[i]);
    free(large);
    return NULL;
}

static void run_busy(void) {
    pthread_t thread[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)) == 0);
    while (atomic_load(&ready) < THREADS)
        usleep(1000);
    wait_for_line("busy");
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    map_low();
    if (strcmp(argv[1], "quiet") == 0)
        run_quiet();
    else
        run_busy();
    return finish();
}
