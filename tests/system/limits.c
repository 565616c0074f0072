/* SPDX-License-Identifier: MIT
 *
 * Allocates against limits, keeps every byte it was granted, and uses what it frees for other sizes.
 *
 * usage: limits exhaust|threads|holes|mappings COUNT|locked|start
 *   exhaust   until NULL, at several sizes in turn (the caller sets the limit)
 *   threads   the same in threads that compete
 *   holes     thousands of free places, of which one fits
 *   mappings  COUNT blocks that are mappings of their own, every other one freed
 *   locked    with all memory locked, now and in future
 *   start     a few blocks of all kinds
 */
#include "self_check.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

/* ---- figures of the process ---- */

static size_t status_kib(const char *name) {
    static char text[8192];
    int file = open("/proc/self/status", O_RDONLY);
    MUST(file >= 0);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    MUST(length > 0);
    text[length] = 0;
    char *line = strstr(text, name);
    MUST(line);
    return strtoul(line + strlen(name), NULL, 10);
}

static size_t count_mappings(void) {
    static char text[65536];
    size_t lines = 0;
    ssize_t length;
    int file = open("/proc/self/maps", O_RDONLY);
    MUST(file >= 0);
    while ((length = read(file, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < length; i++)
            lines += text[i] == '\n';
    close(file);
    return lines;
}

/* ---- exhaust: a chain of blocks of one size, as long as the limit allows ---- */

struct link {
    struct link *next;
    size_t bytes;
    unsigned number;
    unsigned char data[];
};

/* Nothing is left: the other calls say so as well. */
static void expect_nothing(size_t bytes) {
    void *aligned = NULL;
    errno = 0;
    CHECK(calloc(1, bytes) == NULL && errno == ENOMEM);
    CHECK(posix_memalign(&aligned, 64, bytes) == ENOMEM && !aligned);
}

static struct link *exhaust(size_t bytes, unsigned *count) {
    struct link *chain = NULL;
    for (*count = 0;; ++*count) {
        errno = 0;
        struct link *link = malloc(bytes);
        if (!link) {
            CHECK(errno == ENOMEM);
            return chain;
        }
        *link = (struct link){chain, bytes, *count};
        fill(link->data, bytes - sizeof *link, *count);
        chain = link;
    }
}

static int link_intact(const struct link *link) {
    return intact(link->data, link->bytes - sizeof *link, link->number);
}

/* Frees every step-th block of a chain; returns the others. */
static struct link *thin_out(struct link *chain, unsigned step) {
    struct link *kept = NULL, *next;
    for (unsigned i = 0; chain; chain = next, i++) {
        CHECK(link_intact(chain));
        next = chain->next;
        if (i % step == 0) {
            free(chain);
        } else {
            chain->next = kept;
            kept = chain;
        }
    }
    return kept;
}

static size_t chain_bytes(const struct link *chain) {
    size_t total = 0;
    for (; chain; chain = chain->next)
        total += chain->bytes;
    return total;
}

static void fail_to_grow(struct link *chain) {
    for (unsigned i = 0; chain && i < 20; chain = chain->next, i++) {
        errno = 0;
        CHECK(realloc(chain, (size_t)1 << 40) == NULL && errno == ENOMEM);
        CHECK(link_intact(chain));
    }
}

static const size_t sizes[] = {48, 200, 3000, 16384, 40000, 300000, 5000000};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* All memory serves one size, then another: what is freed is not bound to what it was. */
static void run_exhaust(void) {
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < SIZES; i++) {
            unsigned slot = round ? SIZES - 1 - i : i, count;
            struct link *chain = exhaust(sizes[slot], &count);
            size_t bytes = chain_bytes(chain);
            expect_nothing(sizes[slot]);
            fail_to_grow(chain);
            chain = thin_out(chain, 2);
            unsigned again;
            struct link *second = exhaust(sizes[slot], &again);
            CHECK((again + 2) * 10 >= count / 2 * 9);
            thin_out(second, 1);
            thin_out(chain, 1);
            say("%zu bytes in blocks of %zu\n", bytes, sizes[slot]);
        }
}

/* While memory is short in every thread, each gets NULL and keeps what it has. */
static void *exhaust_in_thread(void *argument) {
    unsigned count;
    for (unsigned i = 0; i < 5; i++) {
        struct link *chain = exhaust(*(const size_t *)argument, &count);
        thin_out(thin_out(chain, 3), 1);
    }
    return NULL;
}

static void run_threads(void) {
    pthread_t thread[4];
    pthread_attr_t attributes;
    MUST(pthread_attr_init(&attributes) == 0);
    MUST(pthread_attr_setstacksize(&attributes, 256 << 10) == 0);
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&thread[i], &attributes, exhaust_in_thread, (void *)&sizes[i + 1]) ==
             0);
    for (int i = 0; i < 4; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    free(malloc(1 << 20));
    unsigned count;
    thin_out(exhaust(100000, &count), 1);
    CHECK(count > 20);
}

/* ---- holes: thousands of free places, of which one is large enough ---- */

static int by_address(const void *left, const void *right) {
    uintptr_t a = *(const uintptr_t *)left, b = *(const uintptr_t *)right;
    return (a > b) - (a < b);
}

/* Runs of 7 pages, every other one freed; then room for 8 pages at a place that no search by aligned
 * powers of two comes upon early: it holds no aligned block of 8. */
static void run_holes(void) {
    enum { MAX_BLOCKS = 5000, PAGE = 4096, RUN = 7 * PAGE, SHRUNK = 6 * PAGE, LARGER = 8 * PAGE };
    static char *blocks[MAX_BLOCKS];
    unsigned count = 0, holes = 0, at;
    while (count < MAX_BLOCKS && (blocks[count] = malloc(RUN)) != NULL)
        count++;
    while (malloc(LARGER)) /* what the end of the heap and the limit still yield */
        continue;
    MUST(count > 400 && count < MAX_BLOCKS);
    qsort(blocks, count, sizeof *blocks, by_address);
    for (at = count - 10; at > 0; at--)
        if (blocks[at + 1] - blocks[at - 1] == 2 * RUN && (uintptr_t)blocks[at] / PAGE % 8 >= 3)
            break;
    for (unsigned i = 2; i < at - 2; i += 2)
        if (blocks[i + 1] - blocks[i - 1] == 2 * RUN) {
            free(blocks[i]);
            blocks[i] = NULL;
            holes++;
        }
    CHECK(holes > 100);
    char *shrunk = realloc(blocks[at - 1], SHRUNK);
    CHECK(shrunk == blocks[at - 1]);
    free(blocks[at]);
    blocks[at] = malloc(LARGER);
    CHECK(blocks[at] == shrunk + SHRUNK);
    for (unsigned i = 0; i < count; i++)
        free(blocks[i]);
}

/* ---- more mappings than the kernel allows ---- */

enum { MAPPING_BYTES = 20480, USED_AGAIN = 1000 };

static struct link *make_mapping(unsigned number) {
    struct link *link = malloc(MAPPING_BYTES + 1000);
    MUST(link);
    *link = (struct link){NULL, 1000, number};
    fill(link->data, 1000 - sizeof *link, number);
    return link;
}

/* A reservation above all blocks, and room in it for one more: there a block is a mapping that nothing
 * merges with, the last that the kernel allows. */
enum { RESERVED = 1 << 20, ROOM = 3 * MAPPING_BYTES + 4096 };

static char *reserve_addresses(void) {
    char *start = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(start != MAP_FAILED);
    return start;
}

static void make_room_in(char *reserved) {
    MUST(munmap(reserved + RESERVED / 2, ROOM) == 0);
}

/* Now neither mmap nor munmap can be relied on; malloc, realloc and free can. */
static void use_what_is_left(struct link **blocks) {
    for (unsigned i = 0; i < USED_AGAIN; i++) {
        size_t bytes = i % 3 ? 1000 : 2 * MAPPING_BYTES;
        blocks[2 * i] = malloc(bytes);
        MUST(blocks[2 * i]);
        memset(blocks[2 * i], 1, bytes);
        if (i % 10 == 0) {
            blocks[2 * i + 1] = realloc(blocks[2 * i + 1], 5 * MAPPING_BYTES);
            MUST(blocks[2 * i + 1]);
        }
    }
}

static void run_mappings(unsigned count) {
    free(malloc(1)); /* the heap exists before the trouble begins */
    MUST(mallopt(M_MMAP_THRESHOLD, MAPPING_BYTES) == 1 && mallopt(M_MMAP_MAX, 1 << 30) == 1);
    char *reserved = reserve_addresses();
    size_t mapped = mallinfo2().hblks;
    struct link **blocks = calloc(count, sizeof *blocks);
    MUST(blocks);
    for (unsigned i = 0; i < count; i++)
        blocks[i] = make_mapping(i);
    CHECK(mallinfo2().hblks == mapped + count + 1);
    size_t resident = status_kib("VmRSS:");
    make_room_in(reserved);
    /* The kernel had merged them; now each that stays becomes a mapping, until there are no more. */
    errno = 77;
    for (unsigned i = 0; i < count; i += 2) {
        CHECK(link_intact(blocks[i]));
        free(blocks[i]);
        blocks[i] = NULL;
    }
    CHECK(errno == 77);
    say("mappings: %zu\n", count_mappings());
    /* One page of each was touched; it is gone also where the kernel could not split a mapping. */
    CHECK(status_kib("VmRSS:") < resident - count / 2 * 4 + 4096);
    use_what_is_left(blocks);
    for (unsigned i = 1; i < count; i += 2)
        CHECK(link_intact(blocks[i]));
    for (unsigned i = 0; i < count; i++)
        free(blocks[i]);
    free(blocks);
    CHECK(mallinfo2().hblks == mapped);
}

/* ---- locked memory ---- */

static void run_locked(void) {
    enum { COUNT = 3000 };
    static char *blocks[COUNT];
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        say("cannot lock: %s\n", strerror(errno));
        _exit(4);
    }
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < COUNT; i++) {
            size_t bytes = 1 + i * i * 37 % (i % 50 == 0 ? 300000 : 5000);
            blocks[i] = calloc(bytes, 1);
            MUST(blocks[i]);
            CHECK(all_bytes(blocks[i], bytes, 0)); /* although no page could be given back */
            memset(blocks[i], 0xff, bytes);
        }
        for (unsigned i = 0; i < COUNT; i++)
            if (i % 7)
                free(blocks[i]);
        CHECK(malloc_trim(0) >= 0);
        for (unsigned i = 0; i < COUNT; i += 7) {
            CHECK(blocks[i][0] == (char)0xff);
            free(blocks[i]);
        }
        malloc_trim(0);
    }
    say("locked %s\n", status_kib("VmLck:") > 1000 ? "memory" : "nothing");
    CHECK(munlockall() == 0);
    char *last = calloc(1 << 20, 1);
    CHECK(last && all_bytes(last, 1 << 20, 0));
    free(last);
    malloc_trim(0);
    say("resident after unlocking and trimming: %s\n",
        status_kib("VmRSS:") < 6000 ? "little" : "much");
}

static void run_start(void) {
    static const size_t few[] = {1, 100, 1000, 10000, 100000, 200000};
    for (unsigned i = 0; i < sizeof few / sizeof few[0]; i++) {
        char *block = malloc(few[i]);
        MUST(block);
        memset(block, 1, few[i]);
        free(block);
    }
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    if (strcmp(argv[1], "exhaust") == 0)
        run_exhaust();
    else if (strcmp(argv[1], "threads") == 0)
        run_threads();
    else if (strcmp(argv[1], "holes") == 0)
        run_holes();
    else if (strcmp(argv[1], "mappings") == 0)
        run_mappings((unsigned)atoi(argv[2]));
    else if (strcmp(argv[1], "locked") == 0)
        run_locked();
    else if (strcmp(argv[1], "start") == 0)
        run_start();
    else
        MUST(!"a known scenario");
    return finish();
}
