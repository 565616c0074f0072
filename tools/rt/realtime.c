/* SPDX-License-Identifier: MIT
 *
 * The recipe of docs/REALTIME.md, then a section of random calls, each of them timed.  quarry rt runs
 * it, and so does its test.  It is linked with libc alone, to be run with the library preloaded.
 *
 * usage: realtime RECIPE MIX SEED [BYTES]
 *   RECIPE  none; plain; locked (with mlockall); each may be followed by "-thread": the section runs
 *           in a thread, which begins after the memory was reserved; or by "-used": the program has worked before
 *   MIX     small, mixed, large, bursts: which sizes; see draw()
 *   BYTES   to reserve, 64 MiB if not given; seven eighths of it are in use at most
 *
 * Prints the calls of the section, its page faults, and how long calls took, in nanoseconds.  A close of
 * file descriptor -1000 is the section's first and last system call, so that a tracer sees where it is.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOTS = 16384,
    ROUNDS = 12, /* of bursts; each is a call and a free for each slot */
    CALLS = ROUNDS * SLOTS,
    TIMES = 2 * CALLS,
    STACK_BYTES = 64 * 1024,
    PAGE_BYTES = 4096,
};

struct slot {
    char *block;
    size_t bytes;
};

static struct slot slots[SLOTS];
static uint32_t times_ns[TIMES];
static size_t times_count;
static size_t reserved = (size_t)64 << 20;
static size_t live;
static uint64_t random_state;
static const char *mix;

static void fail(const char *what) {
    perror(what);
    exit(2);
}

/* ---- The timed calls ---------------------------------------------------------------------------- */

static struct timespec now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static void note_time(struct timespec since) {
    struct timespec until = now();
    int64_t ns =
        (int64_t)(until.tv_sec - since.tv_sec) * 1000000000 + until.tv_nsec - since.tv_nsec;
    times_ns[times_count++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static uint64_t draw_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static char *obtain(size_t bytes) {
    uint64_t drawn = draw_word();
    size_t align = (size_t)16 << (drawn >> 8) % 8;
    struct timespec start = now();
    char *block;
    switch (drawn % 8) {
    case 0:
        block = calloc(1, bytes);
        break;
    case 1:
        block = memalign(align, bytes);
        break;
    default:
        block = malloc(bytes);
    }
    note_time(start);
    return block;
}

static char *resize(char *old, size_t bytes) {
    struct timespec start = now();
    char *block = realloc(old, bytes);
    note_time(start);
    return block;
}

static void drop(struct slot *slot) {
    struct timespec start = now();
    free(slot->block);
    note_time(start);
    live -= slot->bytes;
    slot->block = NULL;
    slot->bytes = 0;
}

/* ---- The section -------------------------------------------------------------------------------- */

/* As many small as large ones: the number of bits is uniform between two bounds. */
static size_t draw_bits(unsigned low, unsigned high) {
    unsigned bits = low + (unsigned)(draw_word() % (high - low + 1));
    return ((size_t)1 << bits) + draw_word() % ((size_t)1 << bits);
}

static size_t draw(void) {
    if (strcmp(mix, "small") == 0)
        return draw_bits(0, 9);
    if (strcmp(mix, "mixed") == 0)
        return draw_bits(0, 15);
    if (strcmp(mix, "large") == 0)
        return draw_bits(12, 18);
    return 16 + draw_word() % 4 * 48;
}

static void touch(char *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i += PAGE_BYTES)
        ((volatile char *)block)[i] = 1;
    ((volatile char *)block)[bytes - 1] = 1;
}

static void call_once(struct slot *slot) {
    size_t bytes = draw();
    if (slot->block && draw_word() % 4) {
        drop(slot);
        return;
    }
    if (live + bytes > reserved / 8 * 7) {
        drop(slot);
        return;
    }
    char *block = slot->block ? resize(slot->block, bytes) : obtain(bytes);
    if (!block)
        fail("realtime: an allocation in the section");
    live += bytes - slot->bytes;
    slot->block = block;
    slot->bytes = bytes;
    touch(block, bytes);
}

/* In bursts many blocks come, then all go. */
static void run_calls(void) {
    if (strcmp(mix, "bursts") != 0) {
        for (int i = 0; i < CALLS; i++)
            call_once(&slots[draw_word() % SLOTS]);
        return;
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SLOTS; i++)
            call_once(&slots[i]);
        for (int i = 0; i < SLOTS; i++)
            drop(&slots[i]);
    }
}

static long faults_so_far(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt + usage.ru_majflt;
}

static void use_stack(void) {
    volatile char stack[STACK_BYTES];
    for (size_t i = 0; i < sizeof stack; i += 1024)
        stack[i] = 1;
}

static int by_size(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void *run_section(void *unused) {
    (void)unused;
    use_stack();
    free(malloc(1)); /* the thread's first call is not part of it */
    note_time(now());
    times_count = 0;
    close(-1); /* its code, too, is resident before faults are counted */
    long before = faults_so_far();
    close(-1000);
    run_calls();
    close(-1000);
    long faults = faults_so_far() - before;
    qsort(times_ns, times_count, sizeof times_ns[0], by_size);
    printf("calls=%zu\nfaults=%ld\np50_ns=%u\np999_ns=%u\nworst_ns=%u\n", times_count, faults,
           times_ns[times_count / 2], times_ns[times_count * 999 / 1000],
           times_ns[times_count - 1]);
    return NULL;
}

/* Bursts that a thread's cache learns to hold. */
static void work(void) {
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 1200; i++)
            if (!(slots[i].block = malloc(16 + (size_t)i % 4 * 48)))
                fail("realtime: an allocation before the recipe");
        for (int i = 0; i < 1200; i++) {
            free(slots[i].block);
            slots[i].block = NULL;
        }
    }
}

static void follow_recipe(const char *recipe) {
    if (mallopt(M_TRIM_THRESHOLD, -1) != 1 || mallopt(M_MMAP_MAX, 0) != 1)
        fail("realtime: mallopt");
    if (strncmp(recipe, "locked", 6) == 0 && mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        fail("realtime: mlockall");
    char *reserve = malloc(reserved);
    if (!reserve)
        fail("realtime: the memory to reserve");
    touch(reserve, reserved);
    free(reserve);
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc == 5)
        reserved = strtoull(argv[4], NULL, 10);
    if (argc < 4 || argc > 5 || reserved < PAGE_BYTES) {
        fputs("usage: realtime RECIPE MIX SEED [BYTES]\n", stderr);
        return 2;
    }
    mix = argv[2];
    random_state = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
    /* What the section writes to is resident before it begins. */
    memset(slots, 1, sizeof slots);
    memset(slots, 0, sizeof slots);
    memset(times_ns, 1, sizeof times_ns);
    if (strstr(argv[1], "-used"))
        work();
    if (strcmp(argv[1], "none") != 0)
        follow_recipe(argv[1]);
    if (!strstr(argv[1], "-thread"))
        run_section(NULL);
    else if (pthread_create(&thread, NULL, run_section, NULL) == 0)
        pthread_join(thread, NULL);
    else
        fail("realtime: pthread_create");
    return fflush(stdout) != 0;
}
