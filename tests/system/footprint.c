/* SPDX-License-Identifier: MIT
 *
 * Prints what memory a program costs, as NAME=NUMBER lines; which malloc it runs on is the caller's
 * choice.  Bytes are multiples of pages, as the kernel counts them.
 *
 * usage: footprint trivial            and its mappings, as the kernel lists them
 *        footprint threads COUNT idle|used   threads that did nothing, or a little of everything
 *        footprint fork                  a child that frees a tenth of its parent's blocks
 *        footprint metadata BYTES        64 MiB of blocks of this size, all written to
 *        footprint shrink PERCENT        200 MB in two sizes, of which so much is freed in any order
 */
#include "self_check.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* A number in KiB from a file in /proc/self, in bytes.  Nothing here allocates. */
static size_t figure(const char *path, const char *name) {
    static char text[16384];
    int file = open(path, O_RDONLY);
    MUST(file >= 0);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    MUST(length > 0);
    text[length] = 0;
    char *line = strstr(text, name);
    MUST(line);
    return strtoul(line + strlen(name), NULL, 10) * 1024;
}

static void print_file(const char *path) {
    static char text[4096];
    ssize_t length;
    int file = open(path, O_RDONLY);
    MUST(file >= 0);
    while ((length = read(file, text, sizeof text)) > 0)
        MUST(write(STDOUT_FILENO, text, (size_t)length) == length);
    close(file);
}

static size_t resident(void) {
    return figure("/proc/self/smaps_rollup", "\nRss:");
}

static void use_stack(void) {
    volatile char local[24 << 10];
    for (size_t i = 0; i < sizeof local; i += 4096)
        local[i] = 1;
}

/* ---- trivial ---- */

static void run_trivial(void) {
    char *text = strdup("hello"), *more = malloc(100);
    snprintf(more, 100, "%s, world", text);
    free(text);
    free(more);
    say("virtual=%zu\n", figure("/proc/self/status", "VmSize:"));
    print_file("/proc/self/smaps");
}

/* ---- threads ---- */

enum { MAX_THREADS = 1000 };

static pthread_barrier_t ready, leave;
static pthread_mutex_t turn =
    PTHREAD_MUTEX_INITIALIZER; /* what they need at once is another figure */

/* Three blocks of each of some seventy sizes. */
static void use_a_little_of_everything(void) {
    for (size_t size = 1; size < 300000; size += size / 8 + 16) {
        void *blocks[3];
        for (int i = 0; i < 3; i++) {
            blocks[i] = i % 2 ? calloc(1, size) : malloc(size);
            MUST(blocks[i]);
        }
        blocks[1] = realloc(blocks[1], size + 1);
        for (int i = 0; i < 3; i++)
            free(blocks[i]);
    }
}

static void *run_thread(void *uses) {
    use_stack();
    pthread_mutex_lock(&turn);
    if (uses)
        use_a_little_of_everything();
    pthread_mutex_unlock(&turn);
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&leave);
    return NULL;
}

static void run_threads(unsigned threads, int use) {
    static pthread_t thread[MAX_THREADS];
    MUST(threads <= MAX_THREADS);
    use_stack();
    use_a_little_of_everything();
    MUST(pthread_barrier_init(&ready, NULL, threads + 1) == 0);
    MUST(pthread_barrier_init(&leave, NULL, threads + 1) == 0);
    for (unsigned i = 0; i < threads; i++)
        MUST(pthread_create(&thread[i], NULL, run_thread, use ? thread : NULL) == 0);
    pthread_barrier_wait(&ready);
    say("resident=%zu\n", resident());
    pthread_barrier_wait(&leave);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
}

/* ---- fork ---- */

enum { BLOCKS = 200000, BLOCK_BYTES = 200 };

static void run_fork(void) {
    static char *blocks[BLOCKS];
    struct rusage before, after;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        MUST(blocks[i]);
        memset(blocks[i], i, BLOCK_BYTES);
    }
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        free(malloc(10)); /* what is to be done once in a child, and the pages of this program */
        size_t own = figure("/proc/self/smaps_rollup", "\nPrivate_Dirty:");
        MUST(getrusage(RUSAGE_SELF, &before) == 0);
        for (int i = 0; i < BLOCKS; i += 10)
            free(blocks[i]);
        MUST(getrusage(RUSAGE_SELF, &after) == 0);
        say("faults=%ld\n", after.ru_minflt - before.ru_minflt);
        say("copied=%zu\n", figure("/proc/self/smaps_rollup", "\nPrivate_Dirty:") - own);
        for (int i = 1; i < BLOCKS; i++)
            if (i % 10)
                CHECK(blocks[i][0] == (char)i && blocks[i][BLOCK_BYTES - 1] == (char)i);
        _exit(finish());
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- metadata ---- */

static void run_metadata(size_t bytes) {
    size_t count = ((size_t)64 << 20) / bytes;
    free(malloc(bytes));
    size_t before = resident(), in_use = mallinfo2().uordblks;
    void **last = NULL;
    for (size_t i = 0; i < count; i++) {
        void **block = malloc(bytes);
        MUST(block);
        memset(block, 1, bytes);
        *block = last;
        last = block;
    }
    say("resident=%zu\n", resident() - before);
    say("in_use=%zu\n", mallinfo2().uordblks - in_use);
    for (void **next; last; last = next) {
        next = *last;
        free(last);
    }
}

/* ---- shrink ---- */

enum { SHRINK_BLOCKS = 262144 };

/* The order is the same in each run. */
static uint32_t random_below(uint32_t limit) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % limit);
}

static void run_shrink(size_t percent) {
    static char *blocks[SHRINK_BLOCKS];
    for (uint32_t i = 0; i < SHRINK_BLOCKS; i++) {
        size_t bytes = random_below(2) ? 512 : 1024;
        blocks[i] = malloc(bytes);
        MUST(blocks[i]);
        memset(blocks[i], (int)(i % 251), bytes);
    }
    say("peak=%zu\n", resident());
    for (uint32_t i = SHRINK_BLOCKS - 1; i > 0; i--) {
        uint32_t other = random_below(i + 1);
        char *block = blocks[i];
        blocks[i] = blocks[other];
        blocks[other] = block;
    }
    size_t freed = SHRINK_BLOCKS * percent / 100;
    for (size_t i = 0; i < freed; i++)
        free(blocks[i]);
    say("resident=%zu\n", resident());
    for (size_t i = freed; i < SHRINK_BLOCKS; i++)
        CHECK(blocks[i][0] == blocks[i][511]);
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    if (strcmp(argv[1], "trivial") == 0)
        run_trivial();
    else if (strcmp(argv[1], "threads") == 0)
        run_threads((unsigned)atoi(argv[2]), strcmp(argv[3], "used") == 0);
    else if (strcmp(argv[1], "fork") == 0)
        run_fork();
    else if (strcmp(argv[1], "metadata") == 0)
        run_metadata((size_t)atol(argv[2]));
    else if (strcmp(argv[1], "shrink") == 0)
        run_shrink((size_t)atol(argv[2]));
    else
        MUST(!"a known figure");
    return finish();
}
