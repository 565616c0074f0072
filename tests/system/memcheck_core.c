/* SPDX-License-Identifier: MIT
 *
 * A workload through the quarry_ names, for memcheck to watch the library's own code: every route,
 * threads, a fork child, trimming and statistics.  It outgrows the break that valgrind grants.
 *
 * usage: memcheck_core [PARAMETER VALUE | planted]     parameters are mallopt's
 *
 * What calloc returned is not looked at: it may be fresh memory of the break, which is zero and which
 * memcheck takes for uninitialised.
 */
#include "self_check.h"

#include <errno.h>
#include <pthread.h>
#include <quarry.h>
#include <sys/wait.h>

enum { BLOCKS = 600, ROUNDS = 4000 };

struct holder {
    char *block[BLOCKS];
    size_t bytes[BLOCKS];
    char aligned[BLOCKS]; /* free_sized is for the others */
    unsigned random;
};

static unsigned next(struct holder *holder) {
    holder->random = holder->random * 1103515245 + 12345;
    return holder->random >> 8;
}

static size_t any_size(struct holder *holder) {
    unsigned kind = next(holder) % 100;
    if (kind < 80)
        return next(holder) % 2000;
    return next(holder) % (kind < 99 ? 40000 : 600000);
}

static char *make(struct holder *holder, size_t bytes, char *aligned) {
    void *block = NULL;
    unsigned way = next(holder) % 6;
    *aligned = way == 1 || way == 2;
    switch (way) {
    case 0:
        return quarry_calloc(1, bytes);
    case 1:
        return quarry_memalign((size_t)16 << next(holder) % 9, bytes);
    case 2:
        MUST(quarry_posix_memalign(&block, 64, bytes) == 0);
        return block;
    default:
        return quarry_malloc(bytes);
    }
}

static void change(struct holder *holder) {
    unsigned slot = next(holder) % BLOCKS;
    size_t bytes = any_size(holder), old = holder->bytes[slot];
    char *block = holder->block[slot];
    CHECK(!block || intact(block, old, slot));
    if (block && next(holder) % 2) {
        block = quarry_realloc(block, bytes + 1);
        MUST(block);
        CHECK(intact(block, old < bytes ? old : bytes, slot));
        holder->aligned[slot] = 0;
    } else {
        if (holder->aligned[slot] || next(holder) % 4)
            quarry_free(block);
        else
            quarry_free_sized(block, old);
        block = make(holder, bytes, &holder->aligned[slot]);
        MUST(block);
    }
    CHECK(quarry_malloc_usable_size(block) >= bytes);
    fill(block, bytes, slot);
    holder->block[slot] = block;
    holder->bytes[slot] = bytes;
}

static void churn(struct holder *holder, unsigned rounds) {
    for (unsigned i = 0; i < rounds; i++) {
        change(holder);
        if (i % 500 == 499)
            quarry_malloc_trim(0);
    }
}

static void drop(struct holder *holder) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        CHECK(!holder->block[i] || intact(holder->block[i], holder->bytes[i], i));
        quarry_free(holder->block[i]);
    }
}

static void *run_thread(void *argument) {
    struct holder *holder = argument;
    churn(holder, ROUNDS / 4);
    return NULL;
}

static void run_child(struct holder *holder) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        churn(holder, ROUNDS / 8);
        drop(holder);
        _exit(check_failures != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* An error of the program, to see that errors are seen. */
static void plant_error(void) {
    volatile char *unset = malloc(64); /* libc's, which memcheck has replaced */
    MUST(unset);
    if (unset[32] == 'x')
        say("an x\n");
    free((void *)unset);
}

int main(int argc, char **argv) {
    static struct holder own = {.random = 1},
                         others[3] = {{.random = 2}, {.random = 3}, {.random = 4}};
    pthread_t thread[3];
    if (argc > 2)
        CHECK(quarry_mallopt(atoi(argv[1]), atoi(argv[2])) == 1);
    else if (argc > 1)
        plant_error();
    churn(&own, ROUNDS);
    run_child(&own);
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&thread[i], NULL, run_thread, &others[i]) == 0);
    for (int i = 0; i < 3; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    run_child(&own);
    for (int i = 0; i < 3; i++)
        drop(&others[i]);
    struct mallinfo2 info = quarry_mallinfo2();
    CHECK(info.arena + info.hblkhd > 0);
    FILE *stream = fopen("/dev/null", "w");
    CHECK(stream && quarry_malloc_info(0, stream) == 0);
    fclose(stream);
    errno = 0;
    CHECK(!quarry_malloc((size_t)PTRDIFF_MAX) && errno == ENOMEM);
    drop(&own);
    quarry_malloc_trim(0);
    return finish();
}
