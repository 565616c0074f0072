/* SPDX-License-Identifier: MIT
 *
 * Fixed phases whose page faults and system calls are counted: "phases NAME" runs one and prints
 * the faults that it took.  Code and data of all libraries are mapped beforehand, huge pages are off,
 * addresses are not random, and the clock is one that only allocations move: so only memory of the
 * allocator's own choosing is left to count, and is the same each time. */
#include "own_clock.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { MANY = 100000, SOME = 1000, STACK_BYTES = 64 << 10, BLOCK_NS = 100, BYTES_PER_NS = 10 };

static void *blocks[MANY];
static uint64_t now_ns = 1000000000;

static uint64_t own_clock_ns(void) {
    return now_ns;
}

_Noreturn static void fail(const char *what) {
    dprintf(2, "phases: %s failed\n", what);
    exit(1);
}

static void *filled(size_t size) {
    void *block = malloc(size);
    if (block == NULL)
        fail("malloc");
    memset(block, 1, size);
    now_ns += BLOCK_NS + size / BYTES_PER_NS;
    return block;
}

static void phase_nothing(void) {
}

static void phase_first(void) {
    free(filled(100));
}

/* 10 MB of small blocks, freed in the order they came. */
static void phase_small(void) {
    for (int i = 0; i < MANY; i++)
        blocks[i] = filled(100);
    for (int i = 0; i < MANY; i++)
        free(blocks[i]);
}

/* The same memory again and again. */
static void phase_again(void) {
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 10 * SOME; i++)
            blocks[i] = filled(200);
        for (int i = 0; i < 10 * SOME; i++)
            free(blocks[i]);
    }
}

/* One size freed, another one asked for: what the first left has to serve the second. */
static void phase_changing(void) {
    for (size_t size = 64; size <= 16384; size *= 4) {
        for (size_t i = 0; i < (4 << 20) / size; i++)
            blocks[i] = filled(size);
        for (size_t i = 0; i < (4 << 20) / size; i++)
            free(blocks[i]);
    }
}

static void phase_large(void) {
    for (int i = 0; i < SOME; i++)
        free(filled(1 << 20));
}

static void phase_huge(void) {
    for (int i = 0; i < 10; i++)
        free(filled(32 << 20));
}

static void phase_growing(void) {
    char *text = NULL;
    for (size_t size = 4096; size <= 16 << 20; size += 65536) {
        text = realloc(text, size);
        if (text == NULL)
            fail("realloc");
        memset(text + size - 4096, 1, 4096);
        now_ns += BLOCK_NS;
    }
    free(text);
}

static void *one_thread(void *unused) {
    for (int i = 0; i < SOME; i++)
        free(filled(500));
    return unused;
}

/* One after another, so that the order of what they do is fixed. */
static void phase_threads(void) {
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, one_thread, NULL) != 0)
            fail("pthread_create");
        pthread_join(thread, NULL);
    }
}

static void phase_trim(void) {
    for (int i = 0; i < MANY; i++)
        blocks[i] = filled(400);
    for (int i = 0; i < MANY; i++)
        if (i % 100 != 0)
            free(blocks[i]);
    malloc_trim(0);
}

static const struct {
    const char *name;
    void (*run)(void);
} phases[] = {
    {"nothing", phase_nothing}, {"first", phase_first},       {"small", phase_small},
    {"again", phase_again},     {"changing", phase_changing}, {"large", phase_large},
    {"huge", phase_huge},       {"growing", phase_growing},   {"threads", phase_threads},
    {"trim", phase_trim},
};

/* Maps what one line of /proc/self/maps speaks of. */
static void populate_line(const char *line) {
    char *rest = NULL;
    unsigned long low = strtoul(line, &rest, 16);
    unsigned long high = strtoul(rest + 1, &rest, 16);
    if (rest[1] != 'r' || strstr(rest, "[v") != NULL)
        return;
    int advice = rest[2] == 'w' ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    if (madvise((void *)low, high - low, advice) != 0 && strstr(rest, "[stack]") == NULL)
        fail("madvise(MADV_POPULATE_...)");
}

static void populate(void) {
    static char maps[1 << 16];
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t got = 0;
    while ((got = read(file, maps + length, sizeof(maps) - 1 - length)) > 0)
        length += (size_t)got;
    close(file);
    for (char *line = strtok(maps, "\n"); line != NULL; line = strtok(NULL, "\n"))
        populate_line(line);
    volatile char stack[STACK_BYTES];
    for (size_t i = 0; i < sizeof(stack); i += 1024)
        stack[i] = 0;
}

static long faults(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        fail("getrusage");
    return usage.ru_minflt;
}

/* Where the break and the mappings begin decides how blocks lie to the kernel's boundaries. */
static void fix_addresses(char **argv) {
    int now = personality(0xffffffff);
    if ((now & ADDR_NO_RANDOMIZE) != 0)
        return;
    if (personality((unsigned long)now | ADDR_NO_RANDOMIZE) == -1)
        fail("personality(ADDR_NO_RANDOMIZE)");
    execv("/proc/self/exe", argv);
    fail("execv");
}

int main(int argc, char **argv) {
    fix_addresses(argv);
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0)
        fail("prctl(PR_SET_THP_DISABLE)");
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        if (argc != 2 || strcmp(argv[1], phases[i].name) != 0)
            continue;
        populate();
        long before = faults();
        phases[i].run();
        dprintf(1, "%ld\n", faults() - before);
        return 0;
    }
    dprintf(2, "usage: phases NAME, one of:");
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
        dprintf(2, " %s", phases[i].name);
    dprintf(2, "\n");
    return 2;
}
