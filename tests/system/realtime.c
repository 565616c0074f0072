/* SPDX-License-Identifier: MIT
 *
 * The recipe of docs/REALTIME.md, then a section of random calls.  Prints the page faults of the
 * section; a call with file descriptor -1000 marks in a trace where it begins and ends.
 *
 * usage: realtime RECIPE MIX SEED
 *   RECIPE  none; plain; locked (with mlockall); each may be followed by "-thread": the section runs
 *           in a thread, which begins after the memory was reserved
 *   MIX     small, mixed, large, bursts: which sizes; see draw()
 */
#include "self_check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define RESERVED ((size_t)64 << 20)
#define LIVE_MAX ((size_t)32 << 20)

enum { SLOTS = 16384, CALLS = 200000, STACK_BYTES = 64 * 1024 };

struct slot {
    char *block;
    size_t bytes;
};

static struct slot slots[SLOTS];
static size_t live;
static uint64_t random_state;
static const char *mix;

static uint64_t draw_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

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
    for (size_t i = 0; i < bytes; i += 4096)
        ((volatile char *)block)[i] = 1;
    ((volatile char *)block)[bytes - 1] = 1;
}

static void drop(struct slot *slot) {
    free(slot->block);
    live -= slot->bytes;
    slot->block = NULL;
    slot->bytes = 0;
}

static char *obtain(size_t bytes) {
    switch (draw_word() % 8) {
    case 0:
        return calloc(1, bytes);
    case 1:
        return memalign((size_t)16 << draw_word() % 8, bytes);
    default:
        return malloc(bytes);
    }
}

static void call_once(struct slot *slot) {
    size_t bytes = draw();
    if (slot->block && draw_word() % 4)
        return drop(slot);
    if (live + bytes > LIVE_MAX)
        return drop(slot);
    char *block = slot->block ? realloc(slot->block, bytes) : obtain(bytes);
    if (!block)
        _exit(4);
    live -= slot->bytes;
    slot->block = block;
    slot->bytes = bytes;
    live += bytes;
    touch(block, bytes);
}

/* In bursts many blocks come, then all go. */
static void run_calls(void) {
    if (strcmp(mix, "bursts") != 0) {
        for (int i = 0; i < CALLS; i++)
            call_once(&slots[draw_word() % SLOTS]);
        return;
    }
    for (int round = 0; round < CALLS / SLOTS; round++) {
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

static void *run_section(void *unused) {
    (void)unused;
    use_stack();
    free(malloc(1)); /* the thread's first call is not part of it */
    faults_so_far();
    close(-1000);
    long before = faults_so_far();
    run_calls();
    long faults = faults_so_far() - before;
    close(-1000);
    say("faults=%ld\n", faults);
    return NULL;
}

static void follow_recipe(const char *recipe) {
    MUST(mallopt(M_TRIM_THRESHOLD, -1) == 1);
    MUST(mallopt(M_MMAP_MAX, 0) == 1);
    if (strncmp(recipe, "locked", 6) == 0)
        MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    char *reserve = malloc(RESERVED);
    MUST(reserve);
    touch(reserve, RESERVED);
    free(reserve);
}

int main(int argc, char **argv) {
    pthread_t thread;
    MUST(argc == 4);
    mix = argv[2];
    random_state = (uint64_t)atol(argv[3]) * 0x9e3779b97f4a7c15u + 1;
    memset(slots, 1, sizeof slots);
    memset(slots, 0, sizeof slots);
    if (strcmp(argv[1], "none") != 0)
        follow_recipe(argv[1]);
    if (strstr(argv[1], "-thread")) {
        MUST(pthread_create(&thread, NULL, run_section, NULL) == 0);
        pthread_join(thread, NULL);
    } else {
        run_section(NULL);
    }
    return check_failures != 0;
}
