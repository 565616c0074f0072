/* SPDX-License-Identifier: MIT
 *
 * A program that does exactly what it is told, to be looked at by the command quarry.
 *
 * usage: quarry_known hold          allocates, touches and frees; says "ready"; ends with status 7
 *                                   at the end of its input
 *        quarry_known objects       the same with an object cache and two heaps, where there are such
 *        quarry_known calls N       N times mmap, madvise and munmap of 64 KiB
 *        quarry_known steps         grows by 8 MiB, frees it, five times, a fifth of a second each
 *        quarry_known drips         gives back 40 KiB sixty times, each 10 ms later
 *        quarry_known fails         touches 256 MiB, then ends with status 5
 *        quarry_known outlives      main ends at once; a thread takes 8 MiB 200 ms later, and ends the
 *                                   process with status 5 after as long again
 */
#include "self_check.h"

#include <malloc.h>
#include <pthread.h>
#include <quarry.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#pragma weak quarry_cache_create
#pragma weak quarry_cache_alloc
#pragma weak quarry_cache_free
#pragma weak quarry_heap_create
#pragma weak quarry_heap_malloc

enum {
    BLOCKS = 10000,
    BLOCK_BYTES = 1000,
    CALL_BYTES = 65536,
    CACHED_BYTES = 120 << 10,
    PAIRS = 100,
    STEPS = 5,
    STEP_BLOCKS = 8192,
    DRIPS = 60,
    DRIP_BYTES = 40 << 10,
    FAILURE = 5,
    OBJECTS = 1000,
    OBJECTS_FREED = 300,
    HEAP_BLOCKS = 500,
};

#define MAPPING_BYTES ((size_t)40 << 20)
#define LARGE_BYTES ((size_t)256 << 20)

static int hold(void) {
    static char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        MUST(blocks[i] != NULL);
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    for (int i = 0; i < BLOCKS; i += 2)
        free(blocks[i]);
    char *mapping = malloc(MAPPING_BYTES), *run = malloc(100000), byte;
    MUST(mapping && run);
    memset(mapping, 1, MAPPING_BYTES / 2);
    memset(run, 1, 100000);
    for (int i = 0; i < PAIRS; i++) { /* the last one stays in the cache */
        char *cached = malloc(CACHED_BYTES);
        MUST(cached != NULL);
        memset(cached, 1, CACHED_BYTES);
        free(cached);
    }
    say("ready\n");
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    return 7;
}

/* 1000 objects, of which it frees 300; 500 blocks of a size in two heaps. */
static int hold_objects(void) {
    static void *objects[OBJECTS];
    char byte;
    MUST(quarry_cache_create != NULL);
    struct quarry_cache *cache = quarry_cache_create("known-things", 200, 0, NULL, NULL, NULL);
    MUST(cache);
    for (int i = 0; i < OBJECTS; i++)
        MUST(objects[i] = quarry_cache_alloc(cache));
    for (int i = 0; i < OBJECTS_FREED; i++)
        quarry_cache_free(cache, objects[i]);
    struct quarry_heap *heaps[] = {quarry_heap_create(), quarry_heap_create()};
    for (int i = 0; i < HEAP_BLOCKS; i++)
        MUST(quarry_heap_malloc(heaps[i % 2], 640));
    say("ready\n");
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    return 0;
}

static int make_calls(int count) {
    for (int i = 0; i < count; i++) {
        char *memory =
            mmap(NULL, CALL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(memory != MAP_FAILED);
        MUST(madvise(memory, CALL_BYTES, MADV_DONTNEED) == 0);
        MUST(munmap(memory, CALL_BYTES) == 0);
    }
    return 0;
}

static int take_steps(void) {
    static char *blocks[STEP_BLOCKS];
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < STEP_BLOCKS; i++) {
            blocks[i] = malloc(1024);
            MUST(blocks[i] != NULL);
            memset(blocks[i], 1, 1024);
        }
        usleep(100000);
        for (int i = 0; i < STEP_BLOCKS; i++)
            free(blocks[i]);
        usleep(100000);
    }
    return 0;
}

static int drip(void) {
    MUST(mallopt(M_TOP_PAD, 0) == 1);
    for (int i = 0; i < DRIPS; i++) {
        char *block = malloc(DRIP_BYTES);
        MUST(block != NULL);
        memset(block, 1, DRIP_BYTES);
        free(block);
        malloc_trim(0);
        usleep(10000);
    }
    usleep(100000);
    return 0;
}

static int fail(void) {
    char *memory = malloc(LARGE_BYTES);
    MUST(memory != NULL);
    memset(memory, 1, LARGE_BYTES);
    usleep(50000);
    _exit(FAILURE);
}

static void *live_on(void *unused) {
    usleep(200000);
    char *memory = malloc(STEP_BLOCKS * 1024);
    MUST(memory != NULL);
    memset(memory, 1, STEP_BLOCKS * 1024);
    usleep(200000);
    exit(FAILURE);
    return unused;
}

static int outlive(void) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, live_on, NULL) == 0);
    pthread_exit(NULL);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "hold") == 0)
        return hold();
    if (argc == 2 && strcmp(argv[1], "objects") == 0)
        return hold_objects();
    if (argc == 3 && strcmp(argv[1], "calls") == 0)
        return make_calls(atoi(argv[2]));
    if (argc == 2 && strcmp(argv[1], "steps") == 0)
        return take_steps();
    if (argc == 2 && strcmp(argv[1], "drips") == 0)
        return drip();
    if (argc == 2 && strcmp(argv[1], "fails") == 0)
        return fail();
    if (argc == 2 && strcmp(argv[1], "outlives") == 0)
        return outlive();
    return 2;
}
