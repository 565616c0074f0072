/* SPDX-License-Identifier: MIT
 *
 * What a kernel's advice is relied on for, seen from the program: memory that was given back reads as zero, and
 * a fork child repairs what threads that it does not have left behind.
 */
#include "self_check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

enum {
    BLOCKS = 300,
    BLOCK_BYTES = 100 * 1000,
    SMALL = 20000,
    SMALL_BYTES = 200,
    CHILDREN = 100,
    CHURNERS = 3
};

static void *blocks[SMALL];

static void allocate(int count, size_t bytes) {
    for (int i = 0; i < count; i++) {
        MUST(blocks[i] = malloc(bytes));
        memset(blocks[i], 0xa5, bytes);
    }
}

static void release(int count) {
    for (int i = 0; i < count; i++)
        free(blocks[i]);
    malloc_trim(0);
}

static int is_zero(const char *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (block[i])
            return 0;
    return 1;
}

static void what_is_trimmed_is_cleared(int count, size_t bytes) {
    allocate(count, bytes);
    void *last = malloc(bytes); /* lest the break be lowered */
    release(count);
    int dirty = 0;
    for (int i = 0; i < count; i++) {
        MUST(blocks[i] = calloc(1, bytes));
        dirty += !is_zero(blocks[i], bytes);
    }
    CHECK(dirty == 0);
    release(count);
    free(last);
}

static volatile int stop;

static void *churn(void *unused) {
    while (!stop) {
        void *large = malloc(3 << 20), *small = malloc(60000);
        free(large);
        free(small);
    }
    return unused;
}

/* Each of the churners holds a lock most of the time. */
static void children_go_on(void) {
    pthread_t threads[CHURNERS];
    for (int i = 0; i < CHURNERS; i++)
        MUST(pthread_create(&threads[i], NULL, churn, NULL) == 0);
    int hung = 0;
    for (int i = 0; i < CHILDREN && !hung; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(10);
            free(malloc(3 << 20));
            free(malloc(1000));
            malloc_trim(0);
            _exit(0);
        }
        int status;
        MUST(child > 0 && waitpid(child, &status, 0) == child);
        hung += status != 0;
    }
    CHECK(hung == 0);
    stop = 1;
    for (int i = 0; i < CHURNERS; i++)
        pthread_join(threads[i], NULL);
}

int main(void) {
    what_is_trimmed_is_cleared(BLOCKS, BLOCK_BYTES);
    what_is_trimmed_is_cleared(SMALL, SMALL_BYTES);
    children_go_on();
    return finish();
}
