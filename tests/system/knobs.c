/* SPDX-License-Identifier: MIT
 *
 * Simple loads, whose system calls and resident memory show which parameters are in force.  A call
 * with file descriptor -1000 marks in a trace where the load begins and ends.
 *
 * usage: knobs breathe              20 MB in small and middle blocks, all freed
 *        knobs blocks SIZE COUNT    blocks, all alive at once
 *        knobs again SIZE COUNT     one block, allocated and freed again and again
 *        knobs batches SIZE COUNT   blocks that come and go together; prints what is cached then
 *        knobs report               what quarry_trim reports while another thread has a cache
 */
#include "self_check.h"

#include <fcntl.h>
#include <pthread.h>
#include <quarry.h>

#pragma weak quarry_stats
#pragma weak quarry_trim

static size_t figure(const char *name) {
    char text[4096] = {0};
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    MUST(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    char *line = strstr(text, name);
    MUST(line);
    return strtoul(strchr(line, ':') + 1, NULL, 10) * 1024;
}

static size_t resident(void) {
    return figure("\nRss:");
}

static void mark(void) {
    close(-1000);
}

static void breathe(void) {
    enum { SMALL = 10000, MIDDLE = 500 };
    static char *small[SMALL], *middle[MIDDLE];
    free(malloc(1));
    size_t before = resident();
    mark();
    for (int i = 0; i < SMALL; i++)
        small[i] = memset(malloc(1000), 1, 1000);
    for (int i = 0; i < MIDDLE; i++)
        middle[i] = memset(malloc(20000), 1, 20000);
    size_t peak = resident(), huge = figure("\nAnonHugePages:");
    for (int i = 0; i < SMALL; i++)
        free(small[i]);
    for (int i = 0; i < MIDDLE; i++)
        free(middle[i]);
    mark();
    say("peak=%zu\n", peak - before);
    say("huge=%zu\n", huge);
    say("after=%zd\n", (ssize_t)(resident() - before));
}

static void allocate_blocks(size_t bytes, size_t count) {
    void **last = NULL;
    free(malloc(1));
    mark();
    for (size_t i = 0; i < count; i++) {
        void **block = malloc(bytes);
        MUST(block);
        *block = last;
        last = block;
    }
    mark();
}

static void allocate_again(size_t bytes, size_t count) {
    free(malloc(1));
    mark();
    for (size_t i = 0; i < count; i++) {
        char *block = malloc(bytes);
        MUST(block);
        block[0] = block[bytes - 1] = 1;
        free(block);
    }
    mark();
}

static void use_batches(size_t bytes, size_t count) {
    void **blocks = malloc(count * sizeof *blocks);
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < count; i++)
            MUST(blocks[i] = malloc(bytes));
        for (size_t i = 0; i < count; i++)
            free(blocks[i]);
    }
}

static void allocate_in_batches(size_t bytes, size_t count) {
    struct quarry_stats stats;
    use_batches(bytes, count);
    quarry_stats(&stats, sizeof stats);
    say("cached=%llu\n", (unsigned long long)stats.cached_bytes);
}

static int stage[2][2];

static void *cache_and_wait(void *unused) {
    char byte = 0;
    (void)unused;
    use_batches(200, 50);
    MUST(write(stage[0][1], &byte, 1) == 1);
    MUST(read(stage[1][0], &byte, 1) == 1);
    return NULL;
}

static void report_trims(void) {
    pthread_t thread;
    char byte = 0;
    struct quarry_trim_report report[3];
    MUST(pipe(stage[0]) == 0 && pipe(stage[1]) == 0);
    MUST(pthread_create(&thread, NULL, cache_and_wait, NULL) == 0);
    MUST(read(stage[0][0], &byte, 1) == 1);
    void *block = memset(malloc(100000), 1, 100000);
    free(block);
    int first = quarry_trim(0, &report[0], sizeof report[0]);
    int second = quarry_trim(0, &report[1], sizeof report[1]);
    MUST(write(stage[1][1], &byte, 1) == 1);
    pthread_join(thread, NULL);
    quarry_trim(0, &report[2], sizeof report[2]);
    say("returned=%d%d\n", first, second);
    for (int i = 0; i < 3; i++)
        say("released=%llu\nelsewhere=%llu\n", (unsigned long long)report[i].released_bytes,
            (unsigned long long)report[i].cached_elsewhere_bytes);
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    if (strcmp(argv[1], "breathe") == 0)
        breathe();
    else if (strcmp(argv[1], "blocks") == 0)
        allocate_blocks((size_t)atol(argv[2]), (size_t)atol(argv[3]));
    else if (strcmp(argv[1], "batches") == 0)
        allocate_in_batches((size_t)atol(argv[2]), (size_t)atol(argv[3]));
    else if (strcmp(argv[1], "report") == 0)
        report_trims();
    else
        allocate_again((size_t)atol(argv[2]), (size_t)atol(argv[3]));
    return finish();
}
