/* SPDX-License-Identifier: MIT
 *
 * repeat.c: does the same work again and again, and tells after each round how much is resident.
 *
 * usage: repeat work|threads|forks ROUNDS SEED
 *
 * work      one thread: thousands of blocks of all sizes, resized and freed in another order
 * threads   the same in eight threads that begin and end in each round; half of what a thread leaves
 *           is freed by the next round's
 * forks     two threads do so while the process forks; each child checks and frees what it inherits
 *
 * It knows no allocator: one is preloaded.  The last line, "end 0", says that all checks held.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/wait.h>

#include "../system/self_check.h"

enum { BLOCKS = 6000, THREADS = 8, LEFT = 500, CHILDREN = 12, AT_ONCE = 3 };

struct block {
    unsigned char *at;
    size_t size;
    unsigned value;
};

struct work {
    pthread_t thread;
    uint64_t seed;
    struct block left[LEFT]; /* for whoever works next in this place */
};

static struct work places[THREADS];

static size_t below(uint64_t *state, size_t limit) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (size_t)((x ^ (x >> 31)) % limit);
}

static size_t random_size(uint64_t *state) {
    size_t dice = below(state, 1000);
    if (dice < 800)
        return 1 + below(state, 300);
    if (dice < 980)
        return 1 + below(state, 8192);
    return 1 + below(state, dice < 998 ? 100000 : 2000000);
}

static void take(struct block *block, uint64_t *state) {
    block->size = random_size(state);
    block->value = (unsigned)below(state, 1 << 20);
    block->at = malloc(block->size);
    MUST(block->at != NULL);
    fill(block->at, block->size, block->value);
}

static void give(struct block *block) {
    if (block->at == NULL)
        return;
    MUST(intact(block->at, block->size, block->value));
    free(block->at);
    block->at = NULL;
}

static void resize(struct block *block, uint64_t *state) {
    size_t size = random_size(state), kept = size < block->size ? size : block->size;
    unsigned char *at = realloc(block->at, size);
    MUST(at != NULL && intact(at, kept, block->value));
    block->at = at;
    block->size = size;
    fill(at, size, block->value);
}

/* The same for the same seed, but for what was left before, which is freed. */
static void *work(void *argument) {
    struct work *place = argument;
    uint64_t state = place->seed;
    static _Thread_local struct block blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++)
        take(&blocks[i], &state);
    for (size_t i = 0; i < LEFT; i++)
        give(&place->left[i]);
    for (size_t i = 0; i < BLOCKS / 2; i++)
        resize(&blocks[below(&state, BLOCKS)], &state);
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t other = below(&state, BLOCKS);
        struct block block = blocks[i];
        blocks[i] = blocks[other];
        blocks[other] = block;
    }
    for (size_t i = 0; i < LEFT; i++) {
        place->left[i] = blocks[i];
        blocks[i].at = NULL;
    }
    for (size_t i = LEFT; i < BLOCKS; i++)
        give(&blocks[i]);
    return NULL;
}

static void work_in_threads(unsigned count) {
    for (unsigned i = 0; i < count; i++)
        MUST(pthread_create(&places[i].thread, NULL, work, &places[i]) == 0);
    for (unsigned i = 0; i < count; i++)
        MUST(pthread_join(places[i].thread, NULL) == 0);
}

/* ---- Forks -------------------------------------------------------------------------------------- */

static struct block inherited[LEFT];
static atomic_bool over;

static void *keep_working(void *argument) {
    while (!atomic_load(&over))
        work(argument);
    return NULL;
}

static void be_child(unsigned number) {
    struct work mine = {.seed = number + 1};
    alarm(120); /* a child that hangs is a failure, not a soak that never ends */
    for (size_t i = 0; i < LEFT; i++)
        give(&inherited[i]);
    work(&mine);
    for (size_t i = 0; i < LEFT; i++)
        give(&mine.left[i]);
    _exit(check_failures != 0);
}

static void reap(void) {
    int status = -1;
    MUST(wait(&status) > 0);
    MUST(status == 0);
}

static void fork_children(uint64_t seed) {
    for (size_t i = 0; i < LEFT; i++)
        take(&inherited[i], &seed);
    atomic_store(&over, false);
    for (unsigned i = 0; i < 2; i++)
        MUST(pthread_create(&places[i].thread, NULL, keep_working, &places[i]) == 0);
    for (unsigned number = 0; number < CHILDREN; number++) {
        if (number >= AT_ONCE)
            reap();
        pid_t pid = number % 2 ? fork() : _Fork();
        MUST(pid >= 0);
        if (pid == 0)
            be_child(number);
    }
    for (unsigned i = 0; i < AT_ONCE; i++)
        reap();
    atomic_store(&over, true);
    for (unsigned i = 0; i < 2; i++)
        MUST(pthread_join(places[i].thread, NULL) == 0);
    for (size_t i = 0; i < LEFT; i++)
        give(&inherited[i]);
}

/* ---- Rounds ------------------------------------------------------------------------------------- */

/* Anonymous memory in KiB; without stdio, which would allocate. */
static long resident_kib(void) {
    char text[4096];
    int file = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    MUST(file >= 0);
    ssize_t length = read(file, text, sizeof text - 1);
    MUST(length > 0);
    close(file);
    text[length] = '\0';
    const char *line = strstr(text, "\nAnonymous:");
    MUST(line != NULL);
    return strtol(line + sizeof "\nAnonymous:" - 1, NULL, 10);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    uint64_t seed = strtoull(argv[3], NULL, 0);
    for (unsigned i = 0; i < THREADS; i++)
        places[i].seed = seed + i;
    for (long round = 0, rounds = strtol(argv[2], NULL, 10); round < rounds; round++) {
        if (strcmp(argv[1], "forks") == 0)
            fork_children(seed);
        else if (strcmp(argv[1], "threads") == 0)
            work_in_threads(THREADS);
        else
            work(&places[0]);
        say("round %ld %ld\n", round, resident_kib());
    }
    say("end %d\n", check_failures);
    return check_failures != 0;
}
