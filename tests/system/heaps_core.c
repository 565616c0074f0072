/* SPDX-License-Identifier: MIT
 *
 * First-class heaps: blocks of all sizes keep their contents, threads share a heap, a fork child goes on
 * with it, it goes as a whole, and what is no block of it is refused.
 *
 * usage: heaps_core [double | double-large | foreign | other | inside | free | realloc |
 *        destroyed | no-heap]
 *        with an argument: one wrong call, which aborts
 */
#include "self_check.h"

#include <errno.h>
#include <pthread.h>
#include <quarry.h>
#include <sys/wait.h>

enum { SLOTS = 1500, ROUNDS = 20000, THREADS = 4 };

struct slots {
    struct quarry_heap *heap;
    unsigned char *block[SLOTS];
    size_t bytes[SLOTS];
    unsigned random;
};

static unsigned next(struct slots *slots) {
    slots->random = slots->random * 1103515245 + 12345;
    return slots->random >> 8;
}

static size_t any_size(struct slots *slots) {
    unsigned kind = next(slots) % 100;
    return next(slots) % (kind < 80 ? 600 : kind < 97 ? 9000 : 300000);
}

static void change(struct slots *slots) {
    unsigned slot = next(slots) % SLOTS;
    size_t bytes = any_size(slots), old = slots->bytes[slot];
    unsigned char *block = slots->block[slot];
    CHECK(!block || intact(block, old, slot));
    if (block && next(slots) % 3 == 0) {
        block = quarry_heap_realloc(slots->heap, block, bytes);
        MUST(block);
        CHECK(intact(block, old < bytes ? old : bytes, slot));
    } else {
        quarry_heap_free(slots->heap, block);
        int zeroed = next(slots) % 2;
        block = zeroed ? quarry_heap_calloc(slots->heap, 1, bytes)
                       : quarry_heap_malloc(slots->heap, bytes);
        MUST(block && (uintptr_t)block % 16 == 0);
        CHECK(!zeroed || all_bytes(block, bytes, 0));
    }
    fill(block, bytes, slot);
    slots->block[slot] = block;
    slots->bytes[slot] = bytes;
}

static void *churn(void *argument) {
    struct slots *slots = argument;
    for (int i = 0; i < ROUNDS; i++)
        change(slots);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        CHECK(!slots->block[slot] || intact(slots->block[slot], slots->bytes[slot], slot));
    return NULL;
}

static size_t live_bytes(void) {
    struct quarry_stats stats;
    quarry_stats(&stats, sizeof stats);
    return stats.live_bytes;
}

static void test_threads(void) {
    static struct slots slots[THREADS];
    pthread_t thread[THREADS];
    struct quarry_heap *heap = quarry_heap_create();
    size_t before = live_bytes();
    MUST(heap && quarry_heap_bytes(heap) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        slots[i] = (struct slots){.heap = heap, .random = i + 1};
        MUST(pthread_create(&thread[i], NULL, churn, &slots[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    size_t held = quarry_heap_bytes(heap), asked = 0;
    for (unsigned i = 0; i < THREADS; i++)
        for (unsigned slot = 0; slot < SLOTS; slot++)
            asked += slots[i].bytes[slot];
    CHECK(held >= asked && held < 2 * asked && live_bytes() >= before + held);
    quarry_heap_destroy(heap);
    CHECK(live_bytes() < before + 100000);
}

static void test_sizes(void) {
    struct quarry_heap *heap = quarry_heap_create(), *other = quarry_heap_create();
    static const size_t sizes[] = {0, 1, 16, 17, 4095, 4096, 4097, 100000, 50000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *mine = quarry_heap_malloc(heap, sizes[i]);
        unsigned char *theirs = quarry_heap_calloc(other, 1, sizes[i]);
        MUST(mine && theirs);
        fill(mine, sizes[i], 3);
        CHECK(all_bytes(theirs, sizes[i], 0) && intact(mine, sizes[i], 3));
    }
    quarry_heap_destroy(other);
    errno = 0;
    CHECK(!quarry_heap_malloc(heap, SIZE_MAX) && errno == ENOMEM);
    errno = 0;
    CHECK(!quarry_heap_calloc(heap, SIZE_MAX / 2, 3) && errno == ENOMEM);
    unsigned char *block = quarry_heap_malloc(heap, 100);
    fill(block, 100, 4);
    CHECK(!quarry_heap_realloc(heap, block, PTRDIFF_MAX) && intact(block, 100, 4));
    CHECK(quarry_heap_realloc(heap, block, 100) == block);
    quarry_heap_free(heap, NULL);
    quarry_heap_destroy(heap);
    quarry_heap_destroy(NULL);
}

/* The child may find the heap's locks held by threads that it does not have. */
static void test_fork(void) {
    static struct slots slots[2], own;
    pthread_t thread[2];
    struct quarry_heap *heap = quarry_heap_create();
    own = (struct slots){.heap = heap, .random = 9};
    churn(&own);
    for (unsigned i = 0; i < 2; i++) {
        slots[i] = (struct slots){.heap = heap, .random = i + 1};
        MUST(pthread_create(&thread[i], NULL, churn, &slots[i]) == 0);
    }
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        int status;
        MUST(child >= 0);
        if (child == 0) {
            for (int k = 0; k < 2000; k++)
                change(&own);
            quarry_heap_destroy(heap);
            _exit(check_failures != 0);
        }
        MUST(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    for (unsigned i = 0; i < 2; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    quarry_heap_destroy(heap);
}

static void misuse(const char *how) {
    struct quarry_heap *heap = quarry_heap_create(), *other = quarry_heap_create();
    char *small = quarry_heap_malloc(heap, 100), *large = quarry_heap_malloc(heap, 100000);
    MUST(small && large);
    if (strcmp(how, "double") == 0) {
        quarry_heap_free(heap, small);
        quarry_heap_free(heap, small);
    } else if (strcmp(how, "double-large") == 0) {
        quarry_heap_free(heap, large);
        quarry_heap_free(heap, large);
    } else if (strcmp(how, "foreign") == 0) {
        quarry_heap_free(heap, quarry_malloc(100));
    } else if (strcmp(how, "other") == 0) {
        quarry_heap_free(other, small);
    } else if (strcmp(how, "inside") == 0) {
        quarry_heap_free(heap, large + 16);
    } else if (strcmp(how, "free") == 0) {
        quarry_free(large);
    } else if (strcmp(how, "realloc") == 0) {
        small = quarry_heap_realloc(other, large, 10);
    } else if (strcmp(how, "destroyed") == 0) {
        quarry_heap_destroy(heap);
        quarry_heap_destroy(heap);
    } else if (strcmp(how, "no-heap") == 0) {
        quarry_heap_destroy((struct quarry_heap *)large);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) {
        misuse(argv[1]);
        return 0;
    }
    test_sizes();
    test_threads();
    test_fork();
    return finish();
}
