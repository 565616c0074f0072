/* SPDX-License-Identifier: MIT
 *
 * support.h: what the API tests share: random numbers, block patterns, resident size, children.
 *
 * Everything is static inline, so that each test_*.c is one program by itself.  Nothing here
 * allocates from the allocator under test, and nothing that is called between two measurements
 * allocates at all.
 */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif
/* Figures of resident memory mean nothing beside shadow memory; counts are scaled down. */
#define UNDER_SANITIZER (UNDER_ASAN || UNDER_TSAN)

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PAGE ((size_t)4096)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#if UNDER_TSAN
/* New memory may lie where other memory lay, which was unmapped by a system call of ours that TSan does
 * not see. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "race:^add_chunk$\n";
}

/* Children leave by _exit, so a report must end the process at once or it would be lost; and
 * children of threaded parents start threads here, which TSan refuses unless told otherwise. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "halt_on_error=1:die_after_fork=0";
}
#endif

/* ---- Two allocators on one program break --------------------------------------------------------
 * glibc's sbrk is not thread-safe, and here two allocators move the break: Quarry, and libc's malloc
 * for the test itself, of which thread stacks' tables come.  Each holds a lock of its own, so both
 * may be given the same memory.  Libc's malloc therefore takes all it will need before any thread
 * exists.  Where Quarry provides malloc there is only one of them.
 */
#if !defined(TEST_LIBC) && !UNDER_SANITIZER
__attribute__((constructor)) static void let_libc_take_its_share_of_the_break(void) {
    mallopt(M_TRIM_THRESHOLD, -1);
    mallopt(M_TOP_PAD, 64 << 20);
    void *volatile first = malloc(120 << 10); /* the second does not fit into an existing top */
    void *volatile second = malloc(120 << 10);
    free(first);
    free(second);
    mallopt(M_TOP_PAD, 128 << 10);
}
#endif

/* ---- Checks outside of cmocka -----------------------------------------------------------------
 * cmocka's assertions jump to its runner, which is impossible from another thread or from a child.
 * Tests that use those run in a child as a whole (run_in_child) and check with must().
 */
#define must(condition)                                  \
    do {                                                 \
        if (!(condition))                                \
            must_failed(#condition, __FILE__, __LINE__); \
    } while (0)

__attribute__((noreturn)) static inline void must_failed(const char *text, const char *file,
                                                         int line) {
    char message[512];
    int length = snprintf(message, sizeof message, "# %s:%d: must(%s) failed, errno %d\n", file,
                          line, text, errno);
    if (write(STDERR_FILENO, message, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

/* Waits for a child and returns its wait status. */
static inline int wait_for(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        must(errno == EINTR);
    return status;
}

/* Runs body in a child of its own and returns the wait status: 0 if all of its must()s held.  A
 * deadlock ends by SIGALRM.  The limit is no measure of speed, only far above what can be needed. */
#define CHILD_LIMIT_SECONDS 300u

/* cmocka's handlers for these would turn a child's crash into an exit without a word. */
static const int caught_by_cmocka[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};

static inline int run_in_child(void (*body)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (size_t i = 0; i < COUNT_OF(caught_by_cmocka); i++)
            signal(caught_by_cmocka[i], SIG_DFL);
        alarm(CHILD_LIMIT_SECONDS);
        body();
        fflush(stdout);
        _exit(0);
    }
    return wait_for(pid);
}

#define assert_child_succeeds(body) assert_int_equal(run_in_child(body), 0)

/* ---- Random numbers --------------------------------------------------------------------------- */

struct rng {
    uint64_t state;
};

static inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t rng_next(struct rng *rng) {
    rng->state += 0x9e3779b97f4a7c15u;
    return mix64(rng->state);
}

/* A number in [0, limit); limit > 0. */
static inline size_t rng_below(struct rng *rng, size_t limit) {
    return (size_t)(rng_next(rng) % limit);
}

/* A number in [low, high]. */
static inline size_t rng_between(struct rng *rng, size_t low, size_t high) {
    return low + rng_below(rng, high - low + 1);
}

static inline uint64_t number_from_environment(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : otherwise;
}

/* The seed of this run: QUARRY_TEST_SEED, or a new one; printed, so that a failure can be rerun. */
static inline uint64_t test_seed(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t fresh = mix64((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec) >> 16;
    uint64_t seed = number_from_environment("QUARRY_TEST_SEED", fresh);
    printf("# rerun with QUARRY_TEST_SEED=0x%llx\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* ---- Patterns ---------------------------------------------------------------------------------
 * Word i of a block holds a hash of (seed, i).  Large blocks are sampled, so that a block of 100 MiB
 * need not be resident: everything below 16 KiB, then 64 bytes of each page up to 1 MiB, then 64
 * bytes of every 64 KiB, and always the last 64 bytes.  Which words are sampled depends only on
 * the offset, so that a prefix can be checked after a realloc.
 */
static inline size_t pattern_step(size_t at) {
    at += 8;
    if (at < 16 * KIB)
        return at;
    size_t stride = at <= MIB ? PAGE : 64 * KIB;
    return at % stride < 64 ? at : (at / stride + 1) * stride;
}

static inline size_t pattern_tail(size_t size) {
    return size <= 64 ? 0 : (size - 64) & ~(size_t)7;
}

static inline uint64_t pattern_word(uint64_t seed, size_t at) {
    return mix64(seed + (uint64_t)at * 0x9e3779b97f4a7c15u);
}

static inline void pattern_put(unsigned char *block, size_t at, size_t end, uint64_t seed) {
    uint64_t word = pattern_word(seed, at);
    memcpy(block + at, &word, end - at < 8 ? end - at : 8);
}

static inline bool pattern_holds(const unsigned char *block, size_t at, size_t end, uint64_t seed) {
    uint64_t word = pattern_word(seed, at);
    return memcmp(block + at, &word, end - at < 8 ? end - at : 8) == 0;
}

static inline void pattern_fill(void *block, size_t size, uint64_t seed) {
    for (size_t at = 0; at < size; at = pattern_step(at))
        pattern_put(block, at, size, seed);
    for (size_t at = pattern_tail(size); at < size; at += 8)
        pattern_put(block, at, size, seed);
}

/* True if the first length bytes of a block that was filled as size bytes still hold. */
static inline bool pattern_intact(const void *block, size_t size, uint64_t seed, size_t length) {
    for (size_t at = 0; at < length; at = pattern_step(at)) {
        if (!pattern_holds(block, at, length, seed))
            return false;
    }
    for (size_t at = pattern_tail(size); at < size && length == size; at += 8) {
        if (!pattern_holds(block, at, size, seed))
            return false;
    }
    return true;
}

/* True if every byte is zero. */
static inline bool all_zero(const void *block, size_t size) {
    const unsigned char *bytes = block;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static inline bool is_aligned(const void *block, size_t alignment) {
    return ((uintptr_t)block & (alignment - 1)) == 0;
}

/* ---- Memory outside of any allocator, and how much of the process is resident ------------------ */

static inline void *map_table(size_t bytes) {
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(table != MAP_FAILED);
    return table;
}

/* Reads a /proc file into buffer, NUL-terminated. */
static inline void read_proc(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd >= 0);
    ssize_t length = read(fd, buffer, size - 1);
    must(length > 0);
    buffer[length] = '\0';
    close(fd);
}

static inline size_t virtual_bytes(void) {
    char text[256];
    read_proc("/proc/self/statm", text, sizeof text);
    return strtoul(text, NULL, 10) * PAGE;
}

/* A field of smaps_rollup, such as "Rss:".  Unlike statm, whose counters are kept per processor and
 * summed only now and then, it is exact. */
static inline size_t rollup_bytes(const char *field) {
    char text[4096];
    read_proc("/proc/self/smaps_rollup", text, sizeof text);
    const char *line = strstr(text, field);
    must(line != NULL);
    return strtoul(line + strlen(field), NULL, 10) * KIB;
}

/* Anonymous memory alone: the code of the program and of libraries becomes resident as it first runs. */
static inline size_t resident_bytes(void) {
    return rollup_bytes("\nAnonymous:");
}

#endif /* TEST_SUPPORT_H */
