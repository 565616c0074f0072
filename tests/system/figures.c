/* SPDX-License-Identifier: MIT
 *
 * Brings the heap into a state, then prints the library's figures, or the kernel's, of this process.
 *
 * usage: figures STATE FORMAT
 *   STATE   small, holes, large, mapped, untouched, threads
 *   FORMAT  text, json, openmetrics, stats (malloc_stats), info (malloc_info), ledger (the JSON form
 *           and behind it /proc/self/smaps)
 */
#include "self_check.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <quarry.h>

#pragma weak quarry_write_stats
#pragma weak quarry_stats

enum { BLOCKS = 100000 };
static char **block; /* in the heap: memory of this program's own would not be in the ledger */

static void allocate(size_t count, size_t bytes, int touch) {
    for (size_t i = 0; i < count; i++) {
        block[i] = malloc(bytes + i % 7 * 16);
        MUST(block[i]);
        if (touch)
            memset(block[i], 1, bytes);
    }
}

static void *work(void *unused) {
    (void)unused;
    void *own[1000];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 1000; i++)
            own[i] = memset(malloc(200), 1, 200);
        for (int i = 0; i < 1000; i++)
            free(own[i]);
    }
    return NULL;
}

static void run_threads(void) {
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&thread[i], NULL, work, NULL) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    work(NULL);
}

static void bring_into(const char *state) {
    MUST(block = malloc(BLOCKS * sizeof *block));
    if (strcmp(state, "small") == 0) {
        allocate(BLOCKS, 300, 1);
    } else if (strcmp(state, "holes") == 0) {
        allocate(BLOCKS, 300, 1);
        for (int i = 0; i < BLOCKS; i++)
            if (i % 64 < 48)
                free(block[i]);
    } else if (strcmp(state, "large") == 0) {
        allocate(500, 60000, 1);
        for (int i = 0; i < 500; i += 3)
            free(block[i]);
    } else if (strcmp(state, "mapped") == 0) {
        allocate(100, 300000, 1);
    } else if (strcmp(state, "untouched") == 0) {
        allocate(1000, 100000, 0);
    } else {
        run_threads();
    }
}

static void copy_smaps(void) {
    static char text[1 << 16];
    int file = open("/proc/self/smaps", O_RDONLY);
    ssize_t length;
    while ((length = read(file, text, sizeof text)) > 0)
        MUST(write(STDOUT_FILENO, text, (size_t)length) == length);
    close(file);
}

static void print(const char *format) {
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (strcmp(format, "stats") == 0)
        malloc_stats();
    else if (strcmp(format, "info") == 0)
        malloc_info(0, stdout);
    else if (strcmp(format, "text") == 0)
        quarry_write_stats(stdout, QUARRY_TEXT);
    else if (strcmp(format, "openmetrics") == 0)
        quarry_write_stats(stdout, QUARRY_OPENMETRICS);
    else
        quarry_write_stats(stdout, QUARRY_JSON);
    fflush(stdout);
    if (strcmp(format, "ledger") == 0)
        copy_smaps();
}

/* A caller built for a shorter structure gets its fields and no more. */
static void check_sizes(void) {
    struct quarry_stats stats;
    memset(&stats, 0x5a, sizeof stats);
    MUST(quarry_stats(&stats, 24) == 24 && stats.bytes == 24);
    MUST(stats.version == QUARRY_STATS_VERSION);
    MUST(all_bytes((char *)&stats + 24, sizeof stats - 24, 0x5a));
    MUST(quarry_stats(&stats, sizeof stats) == sizeof stats);
    MUST(quarry_stats(&stats, 2 * sizeof stats) == sizeof stats);
    MUST(quarry_write_stats(stdout, (enum quarry_format)3) != 0);
}

int main(int argc, char **argv) {
    MUST(argc == 3 && quarry_stats && quarry_write_stats);
    bring_into(argv[1]);
    check_sizes();
    print(argv[2]);
    return check_failures != 0;
}
