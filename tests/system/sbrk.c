/* SPDX-License-Identifier: MIT
 *
 * A program that moves the break itself, between its allocations and those of its threads, or in
 * which the break cannot move.  What it got from sbrk holds a pattern, as its blocks do.
 *
 * usage: sbrk alone|threads|lower|blocked|blocked-later
 */
#include "self_check.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

enum { PARTS = 60, BLOCKS = 400 };

struct part {
    char *start;
    size_t bytes;
};

static struct part parts[PARTS];
static unsigned part_count;

static struct part blocks[BLOCKS];
static unsigned random_state = 12345;

static unsigned random_below(unsigned n) {
    random_state = random_state * 1103515245 + 12345;
    return (random_state >> 8) % n;
}

/* ---- the program's own parts of the break ---- */

static void take_part(size_t bytes) {
    char *start = sbrk((intptr_t)bytes);
    MUST(start != (void *)-1);
    for (size_t i = 0; i < bytes; i++) /* new pages are zero; nobody wrote to them before us */
        if (start[i] != 0) {
            CHECK(start[i] == 0);
            break;
        }
    fill(start, bytes, part_count);
    parts[part_count++] = (struct part){start, bytes};
}

static void check_parts(void) {
    for (unsigned i = 0; i < part_count; i++)
        CHECK(intact(parts[i].start, parts[i].bytes, i));
    CHECK(part_count == 0 ||
          (char *)sbrk(0) >= parts[part_count - 1].start + parts[part_count - 1].bytes);
}

/* ---- blocks ---- */

static int overlaps_parts(const char *start, size_t bytes) {
    for (unsigned i = 0; i < part_count; i++)
        if (start < parts[i].start + parts[i].bytes && parts[i].start < start + bytes)
            return 1;
    return 0;
}

static void change_block(unsigned slot, size_t bytes) {
    struct part *block = &blocks[slot];
    CHECK(!block->start || intact(block->start, block->bytes, slot));
    free(block->start);
    block->start = malloc(bytes);
    block->bytes = bytes;
    MUST(block->start);
    CHECK(!overlaps_parts(block->start, malloc_usable_size(block->start)));
    fill(block->start, bytes, slot);
}

static void change_blocks(unsigned count) {
    for (unsigned i = 0; i < count; i++)
        change_block(random_below(BLOCKS), random_below(i % 10 == 0 ? 100000 : 2000));
}

static void free_blocks(void) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        CHECK(intact(blocks[i].start, blocks[i].bytes, i));
        free(blocks[i].start);
        blocks[i] = (struct part){NULL, 0};
    }
}

/* The test would be about nothing if the heap did not use the break at all. */
static void print_place(void) {
    extern char end;
    unsigned below = 0;
    for (unsigned i = 0; i < BLOCKS; i++)
        below += blocks[i].start > &end && blocks[i].start < (char *)sbrk(0);
    say("the heap %s the break\n", below > BLOCKS / 2 ? "is on" : "is not on");
}

/* ---- scenarios ---- */

static size_t odd_size(unsigned i) {
    return 1 + i * i * 37 % 9000 + (i % 7 == 0 ? 100000 : 0);
}

static void run_alone(void) {
    char *first_break = sbrk(0);
    for (unsigned i = 0; i < PARTS; i++) {
        take_part(odd_size(i));
        change_blocks(200);
        if (i % 5 == 0)
            malloc_trim(0);
        check_parts();
    }
    print_place();
    free_blocks();
    malloc_trim(0);
    check_parts();
    CHECK((char *)sbrk(0) > first_break);
    change_blocks(1000);
    free_blocks();
}

/* libc's sbrk is not thread-safe, so the program takes care that the threads take turns. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void *take_turns(void *argument) {
    int moves_break = *(int *)argument;
    for (unsigned i = 0; i < PARTS / 2; i++) {
        pthread_mutex_lock(&turn);
        if (moves_break)
            take_part(odd_size(i));
        change_blocks(50);
        check_parts();
        pthread_mutex_unlock(&turn);
    }
    return NULL;
}

static void run_threads(void) {
    static int moves_break[4] = {1, 0, 1, 0};
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&thread[i], NULL, take_turns, &moves_break[i]) == 0);
    for (int i = 0; i < 4; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    print_place();
    free_blocks();
    malloc_trim(0);
    check_parts();
}

/* The program gives its part back before the heap grows again: then the break is all the heap's. */
static void run_lower(void) {
    for (unsigned i = 0; i < 50; i++) {
        change_blocks(200);
        char *top = sbrk(0);
        take_part(odd_size(i) + 10000);
        CHECK(sbrk(-5000) != (void *)-1);
        parts[0].bytes -= 5000;
        check_parts();
        for (unsigned j = 0; j < BLOCKS; j++)
            CHECK(!blocks[j].start || intact(blocks[j].start, blocks[j].bytes, j));
        CHECK(i % 2 ? brk(top) == 0 : sbrk(-(intptr_t)parts[0].bytes) != (void *)-1);
        CHECK(sbrk(0) == top);
        part_count = 0;
    }
    print_place();
    char *top = sbrk(0);
    free_blocks();
    malloc_trim(0);
    CHECK((char *)sbrk(0) < top);
    change_blocks(1000);
    free_blocks();
}

static size_t resident_bytes(void) {
    char text[100] = {0};
    int file = open("/proc/self/statm", O_RDONLY);
    MUST(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    return strtoul(strchr(text, ' '), NULL, 10) * 4096;
}

enum { SMALL_BLOCKS = 40000, SMALL_BYTES = 1000 };

/* Nothing is left above the break but distance bytes; the heap goes on elsewhere. */
static void run_blocked(size_t distance) {
    static char *small[SMALL_BLOCKS];
    change_blocks(100);
    uintptr_t wall = ((uintptr_t)sbrk(0) + distance + 4095) & ~(uintptr_t)4095;
    MUST(mmap((void *)wall, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
              0) == (void *)wall);
    CHECK(sbrk((intptr_t)distance + 8192) == (void *)-1);
    size_t before = resident_bytes();
    for (unsigned round = 0; round < 2; round++) {
        unsigned beyond = 0;
        for (unsigned i = 0; i < SMALL_BLOCKS; i++) {
            small[i] = malloc(SMALL_BYTES);
            MUST(small[i]);
            memset(small[i], (int)i, SMALL_BYTES);
            beyond += (uintptr_t)small[i] > wall;
        }
        CHECK(beyond > SMALL_BLOCKS / 2);
        change_blocks(300);
        for (unsigned i = 0; i < SMALL_BLOCKS; i++) {
            CHECK(all_bytes(small[i], SMALL_BYTES, (int)(i & 255)));
            free(small[i]);
        }
    }
    free_blocks();
    malloc_trim(0);
    CHECK(resident_bytes() < before + (2 << 20));
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    if (strcmp(argv[1], "alone") == 0)
        run_alone();
    else if (strcmp(argv[1], "threads") == 0)
        run_threads();
    else if (strcmp(argv[1], "lower") == 0)
        run_lower();
    else if (strcmp(argv[1], "blocked") == 0)
        run_blocked(0);
    else if (strcmp(argv[1], "blocked-later") == 0)
        run_blocked(3 << 20);
    else
        MUST(!"a known scenario");
    return finish();
}
