/* SPDX-License-Identifier: MIT
 *
 * How long single calls take: each malloc and each free of a mixed load is timed by itself.
 *
 * usage: latency [THREADS [CALLS]]    (2 threads, 2 000 000 pairs each)
 *
 * Each thread replaces blocks at random places of a table; four fifths of them are of up to 1 KiB, most
 * others of up to 16 KiB, one in 50 of up to 256 KiB.  One in eight is freed by the next thread.  Times
 * go into classes that are 1/32 apart; the least time between two readings of the clock is taken off.
 * The first fifth of the calls warms up and is not counted.
 *
 * Prints JSON: for malloc and for free the number of calls, percentiles and the worst, in nanoseconds.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOTS = 8192, THREADS_MOST = 64, STEPS = 32, CLASSES = 64 * STEPS, MAILBOX = 64 };

struct histogram {
    uint64_t count[CLASSES], calls, worst;
};

struct worker {
    pthread_t thread;
    uint64_t random, calls;
    struct worker *next;
    struct histogram malloc, free;
    void *slot[SLOTS];
    void *mailbox[MAILBOX]; /* blocks from the thread before */
};

static uint64_t overhead_ns = UINT64_MAX;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t draw(struct worker *worker, uint64_t below) {
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    return worker->random % below;
}

static size_t draw_size(struct worker *worker) {
    uint64_t kind = draw(worker, 50);
    return 1 + draw(worker, kind < 40 ? 1024 : kind < 49 ? 16384 : 262144);
}

/* Exact below STEPS, then STEPS classes for each doubling. */
static unsigned class_of(uint64_t ns) {
    if (ns < STEPS)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 5;
    return (shift + 1) * STEPS + (unsigned)(ns >> shift) - STEPS;
}

static uint64_t least_of_class(unsigned index) {
    if (index < STEPS)
        return index;
    unsigned shift = index / STEPS - 1;
    return (uint64_t)(STEPS + index % STEPS) << shift;
}

static void note(struct histogram *histogram, uint64_t start, uint64_t end) {
    uint64_t ns = end - start > overhead_ns ? end - start - overhead_ns : 0;
    histogram->count[class_of(ns)]++;
    histogram->calls++;
    if (ns > histogram->worst)
        histogram->worst = ns;
}

/* The block that leaves a slot; one in eight goes to the next thread, whose older one comes back. */
static void *leave(struct worker *worker, size_t slot) {
    void *block = worker->slot[slot];
    if (block == NULL || draw(worker, 8) != 0)
        return block;
    return __atomic_exchange_n(&worker->next->mailbox[draw(worker, MAILBOX)], block,
                               __ATOMIC_ACQ_REL);
}

static void replace(struct worker *worker, int counted) {
    size_t slot = draw(worker, SLOTS), size = draw_size(worker);
    void *old = leave(worker, slot);
    uint64_t start = now_ns();
    free(old);
    uint64_t between = now_ns();
    char *block = malloc(size);
    uint64_t end = now_ns();
    if (block == NULL) {
        fputs("latency: no memory\n", stderr);
        exit(1);
    }
    block[0] = block[size - 1] = 1;
    worker->slot[slot] = block;
    if (!counted)
        return;
    if (old)
        note(&worker->free, start, between);
    note(&worker->malloc, between, end);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    for (uint64_t i = 0; i < worker->calls; i++)
        replace(worker, i >= worker->calls / 5);
    return NULL;
}

static void measure_overhead(void) {
    for (int i = 0; i < 100000; i++) {
        uint64_t start = now_ns(), end = now_ns();
        if (end - start < overhead_ns)
            overhead_ns = end - start;
    }
}

static void add(struct histogram *sum, const struct histogram *histogram) {
    for (unsigned i = 0; i < CLASSES; i++)
        sum->count[i] += histogram->count[i];
    sum->calls += histogram->calls;
    if (histogram->worst > sum->worst)
        sum->worst = histogram->worst;
}

static uint64_t percentile(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)((double)histogram->calls * share), seen = 0;
    for (unsigned i = 0; i < CLASSES; i++)
        if ((seen += histogram->count[i]) > wanted)
            return least_of_class(i);
    return histogram->worst;
}

static void print(const char *name, const struct histogram *histogram, const char *end) {
    printf("\"%s\": {\"calls\": %llu, \"p50\": %llu, \"p99\": %llu, \"p99.9\": %llu, "
           "\"p99.99\": %llu, \"worst\": %llu}%s",
           name, (unsigned long long)histogram->calls,
           (unsigned long long)percentile(histogram, 0.5),
           (unsigned long long)percentile(histogram, 0.99),
           (unsigned long long)percentile(histogram, 0.999),
           (unsigned long long)percentile(histogram, 0.9999), (unsigned long long)histogram->worst,
           end);
}

/* A number from 1 to most; what is none ends the program. */
static uint64_t read_number(const char *text, uint64_t most) {
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (*end || end == text || number < 1 || number > most) {
        fprintf(stderr,
                "latency: '%s' is not a number from 1 to %llu; usage: latency [THREADS [CALLS]]\n",
                text, (unsigned long long)most);
        exit(2);
    }
    return number;
}

int main(int argc, char **argv) {
    static struct worker all[THREADS_MOST];
    static struct histogram of_malloc, of_free;
    uint64_t threads = argc > 1 ? read_number(argv[1], THREADS_MOST) : 2;
    uint64_t calls = argc > 2 ? read_number(argv[2], 1000000000) : 2000000;
    measure_overhead();
    for (uint64_t i = 0; i < threads; i++) {
        all[i].random = 88172645463325252u + i * 7919;
        all[i].calls = calls;
        all[i].next = &all[(i + 1) % threads];
    }
    for (uint64_t i = 0; i < threads; i++)
        if (pthread_create(&all[i].thread, NULL, work, &all[i]) != 0) {
            fputs("latency: no thread\n", stderr);
            return 1;
        }
    for (uint64_t i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        add(&of_malloc, &all[i].malloc);
        add(&of_free, &all[i].free);
    }
    printf("{\"overhead_ns\": %llu, ", (unsigned long long)overhead_ns);
    print("malloc", &of_malloc, ", ");
    print("free", &of_free, "}\n");
    return 0;
}
