/* SPDX-License-Identifier: MIT
 *
 * A program that is controlled from outside (QUARRY_CONTROL=1) and does what its input says, a word
 * and a number in each line; it answers each by one line.
 *
 *   fill N      takes and touches N blocks of 1000 bytes
 *   thin        frees all of them but every 64th
 *   drop        frees all
 *   try N       yes or no: whether a block of N bytes is to be had
 *   stats       the heap's own figures in one line of JSON
 *   fork        the number of a child, which sleeps until it is killed
 *   signal      whether a signal to the process that this thread has blocked is still pending
 *   close       closes every descriptor above 2
 *   section     page faults of the main thread in two seconds of malloc and free; close(-1000) marks
 *               begin and end
 *   leave       ends the main thread, and with it the program, for it has no other
 */
#include "self_check.h"

#include <pthread.h>
#include <quarry.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#pragma weak quarry_write_stats

enum { BLOCKS = 100000, BLOCK_BYTES = 1000, KEPT_EACH = 64, SECTION_BLOCKS = 4096, SECTION_S = 2 };

#define RESERVE_BYTES ((size_t)32 << 20)

static char *blocks[BLOCKS];
static int block_count;

static void take(int count) {
    for (; block_count < count; block_count++) {
        blocks[block_count] = malloc(BLOCK_BYTES);
        MUST(blocks[block_count] != NULL);
        memset(blocks[block_count], 1, BLOCK_BYTES);
    }
}

static void release(int kept_each) {
    int kept = 0;
    for (int i = 0; i < block_count; i++)
        if (kept_each && i % kept_each == 0)
            blocks[kept++] = blocks[i];
        else
            free(blocks[i]);
    block_count = kept;
}

static const char *try(size_t bytes) {
    void *block = malloc(bytes);
    free(block);
    return block ? "yes" : "no";
}

static void tell_stats(void) {
    static char text[1 << 16];
    FILE *stream = fmemopen(text, sizeof text, "w");
    MUST(stream && quarry_write_stats && quarry_write_stats(stream, QUARRY_JSON) == 0);
    MUST(fclose(stream) == 0);
    for (char *at = text; (at = strchr(at, '\n')) != NULL;)
        *at = ' ';
    printf("%s\n", text);
}

static void tell_child(void) {
    pid_t child = fork();
    MUST(child >= 0);
    while (child == 0)
        pause();
    printf("%d\n", (int)child);
}

static const char *signal_is_pending(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 && kill(getpid(), SIGUSR1) == 0);
    usleep(200000);
    MUST(sigpending(&set) == 0);
    return sigismember(&set, SIGUSR1) ? "pending" : "taken";
}

static void close_all(void) {
    for (int descriptor = 3; descriptor < 1024; descriptor++)
        close(descriptor);
    puts("closed");
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static long thread_faults(void) {
    struct rusage usage;
    MUST(getrusage(RUSAGE_THREAD, &usage) == 0);
    return usage.ru_minflt + usage.ru_majflt;
}

static char *held[SECTION_BLOCKS];

static void churn(double seconds) {
    unsigned random = 1;
    for (double end = now_s() + seconds; now_s() < end;) {
        random = random * 1664525 + 1013904223;
        char **block = &held[(random >> 8) % SECTION_BLOCKS];
        free(*block);
        *block = malloc(random >> 20);
        MUST(*block != NULL);
        **block = 1;
    }
}

/* The heap has 32 MiB, all of it touched; a quarter is used.  What is not the heap's (code, tables of
 * the program) is touched by a first round. */
static void section(void) {
    char *reserve = malloc(RESERVE_BYTES);
    MUST(reserve != NULL);
    memset(reserve, 1, RESERVE_BYTES);
    free(reserve);
    memset(held, 0, sizeof held);
    churn(0.3);
    long before = thread_faults();
    close(-1000);
    churn(SECTION_S);
    close(-1000);
    long after = thread_faults();
    for (int i = 0; i < SECTION_BLOCKS; i++)
        free(held[i]);
    printf("%ld\n", after - before);
}

static void obey(const char *word, long number) {
    if (strcmp(word, "fill") == 0) {
        take((int)number);
        puts("filled");
    } else if (strcmp(word, "thin") == 0 || strcmp(word, "drop") == 0) {
        release(*word == 't' ? KEPT_EACH : 0);
        puts("freed");
    } else if (strcmp(word, "try") == 0) {
        puts(try((size_t)number));
    } else if (strcmp(word, "stats") == 0) {
        tell_stats();
    } else if (strcmp(word, "fork") == 0) {
        tell_child();
    } else if (strcmp(word, "signal") == 0) {
        puts(signal_is_pending());
    } else if (strcmp(word, "close") == 0) {
        close_all();
    } else if (strcmp(word, "section") == 0) {
        section();
    } else if (strcmp(word, "leave") == 0) {
        pthread_exit(NULL);
    }
}

int main(void) {
    char line[100], word[100];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        long number = 0;
        if (sscanf(line, "%99s %ld", word, &number) >= 1)
            obey(word, number);
    }
    return 0;
}
