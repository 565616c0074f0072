/* SPDX-License-Identifier: MIT
 *
 * misuse_support.h: runs cases of misuse, each in a process of its own, and judges what is reported.
 *
 * A case runs in a fresh process (the program is executed again with the number of the case),
 * because what is detected at once in a cold size class may be detected later in a hot one.  The
 * case prints the line that it expects on stdout and then misuses the heap; the line that Quarry
 * writes to stderr must be exactly that and nothing else:
 *
 *   quarry: FUNCTION(0xADDRESS): REASON
 *
 * A handler for SIGABRT checks, before the process dies, that the blocks around the misused one are
 * unharmed.  On glibc only the misuse that it reports itself is run, and any line is right.
 */
#ifndef MISUSE_SUPPORT_H
#define MISUSE_SUPPORT_H

#include "support.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>

#include "api_under_test.h"

enum { NEIGHBOURS = 8, HEAP_HARMED = 43, NOT_REPORTED = 44, OTHER_SIZE = 45 };

#define FOREIGN "not a block of this heap"
#define FREED "already free"
#define NEVER "never allocated"

/* ---- In the process that misuses the heap ------------------------------------------------------- */

static struct {
    void *block;
    size_t size;
} neighbours[NEIGHBOURS];

static inline void check_neighbours(int signal) {
    (void)signal;
    for (size_t i = 0; i < NEIGHBOURS; i++) {
        if (!pattern_intact(neighbours[i].block, neighbours[i].size, i, neighbours[i].size))
            _exit(HEAP_HARMED);
    }
}

/* Live blocks beside the one that is misused, too few to make their size class a hot one. */
static inline void make_neighbours(size_t size) {
    for (size_t i = 0; i < NEIGHBOURS; i++) {
        neighbours[i].block = t_malloc(size);
        neighbours[i].size = size;
        must(neighbours[i].block != NULL);
        pattern_fill(neighbours[i].block, size, i);
    }
    must(signal(SIGABRT, check_neighbours) != SIG_ERR);
}

/* Says which line must come; the rest of the line follows as in printf. */
__attribute__((format(printf, 3, 4))) static inline void
expect(const char *function, const void *address, const char *reason, ...) {
    va_list arguments;
    va_start(arguments, reason);
    printf("quarry: %s(0x%" PRIxPTR "): ", function, (uintptr_t)address);
    vprintf(reason, arguments);
    printf("\n");
    fflush(stdout);
    va_end(arguments);
}

/* Says that any of several lines may come: each further one follows after "or ". */
static inline void expect_either(const char *function, const void *address, const char *reason,
                                 const char *other) {
    expect(function, address, "%s", reason);
    printf("or ");
    expect(function, address, "%s", other);
}

static size_t last_usable; /* of the last block_of, while it lives */

static inline char *block_of(size_t size) {
    char *block = t_malloc(size);
    must(block != NULL);
    last_usable = t_malloc_usable_size(block);
    memset(block, 'x', size);
    return block;
}

static inline void use_usable_size(void *block) {
    if (t_malloc_usable_size(block) != last_usable)
        _exit(OTHER_SIZE);
}

static inline void use_realloc(void *block) {
    (void)t_realloc(block, 10);
}

static inline void use_realloc_zero(void *block) {
    (void)t_realloc(block, 0);
}

static inline void use_free_sized(void *block) {
    t_free_sized(block, 10);
}

static inline void use_free_aligned_sized(void *block) {
    t_free_aligned_sized(block, 16, 10);
}

static inline void use_free(void *block) {
    t_free(block);
}

/* All ways to pass a pointer to the heap. */
static const struct use {
    const char *function;
    void (*call)(void *block);
} uses[] = {
    {"free", use_free},
    {"realloc", use_realloc},
    {"realloc", use_realloc_zero},
    {"malloc_usable_size", use_usable_size},
    {"free_sized", use_free_sized},
    {"free_aligned_sized", use_free_aligned_sized},
};

/* ---- A case ------------------------------------------------------------------------------------- */

/* EVERY_USE: with each function that takes a pointer, otherwise as the case does by itself.
 * ON_GLIBC_TOO: glibc's free reports it as well (COMPAT-5).
 * SIZE_ANSWERED: malloc_usable_size, which changes nothing, answers as for the block that was misused. */
enum { EVERY_USE = 1, ON_GLIBC_TOO = 2, SIZE_ANSWERED = 4 };

#define MISUSE(name, size, flags) \
    { #name, name, size, flags }

struct misuse {
    const char *name;
    void (*run)(const struct use *use);
    size_t neighbour_size;
    int flags;
};

/* In the new process: sets the scene and misuses the heap, which must not return. */
static inline void run_case(const struct misuse *misuse, size_t use) {
    alarm(CHILD_LIMIT_SECONDS);
    must(use < COUNT_OF(uses));
    must(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) == 0);
    make_neighbours(misuse->neighbour_size);
    misuse->run(&uses[use]);
    _exit(NOT_REPORTED);
}

/* ---- In the test ------------------------------------------------------------------------------------ */

struct outcome {
    int status;
    char expected[512]; /* what the process said on stdout and on stderr */
    char reported[512];
};

static inline void read_all(int fd, char *text, size_t size) {
    size_t length = 0;
    ssize_t count;
    while (length < size - 1 && (count = read(fd, text + length, size - 1 - length)) > 0)
        length += (size_t)count;
    text[length] = '\0';
    close(fd);
}

static inline void execute_case(const char *name, size_t use, struct outcome *outcome) {
    int out[2];
    int err[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(err), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char use_text[24];
        snprintf(use_text, sizeof use_text, "%zu", use);
        must(dup2(out[1], STDOUT_FILENO) >= 0 && dup2(err[1], STDERR_FILENO) >= 0);
        for (size_t i = 0; i < 2; i++) {
            close(out[i]);
            close(err[i]);
        }
        execl("/proc/self/exe", "misuse", name, use_text, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    read_all(out[0], outcome->expected, sizeof outcome->expected);
    read_all(err[0], outcome->reported, sizeof outcome->reported);
    outcome->status = wait_for(pid);
}

/* One of the lines that the case announced, and nothing more. */
static inline bool is_expected_line(const struct outcome *outcome) {
    if (outcome->expected[0] == '\0')
        return false;
    const char *line = outcome->expected;
    while (*line != '\0') {
        size_t length = strcspn(line, "\n") + 1;
        if (strlen(outcome->reported) == length && memcmp(outcome->reported, line, length) == 0)
            return true;
        line += length;
        if (strncmp(line, "or ", 3) == 0)
            line += 3;
    }
    return false;
}

static inline void misuse_is_reported(void **state) {
    const struct misuse *misuse = *state;
    size_t uses_of_it = misuse->flags & EVERY_USE && !ON_GLIBC ? COUNT_OF(uses) : 1;
    for (size_t use = 0; use < uses_of_it; use++) {
        struct outcome outcome;
        execute_case(misuse->name, use, &outcome);
        if (misuse->flags & SIZE_ANSWERED && uses[use].call == use_usable_size) {
            assert_true(WIFEXITED(outcome.status) && WEXITSTATUS(outcome.status) == NOT_REPORTED);
            assert_string_equal(outcome.reported, "");
            continue;
        }
        const char *what = !WIFSIGNALED(outcome.status) || WTERMSIG(outcome.status) != SIGABRT
                               ? "did not die by SIGABRT"
                           : !ON_GLIBC && !is_expected_line(&outcome) ? "wrote another line"
                                                                      : NULL;
        if (what != NULL)
            fail_msg("%s by %s %s: status 0x%x, expected:\n# %sstderr:\n# %s", misuse->name,
                     uses[use].function, what, outcome.status, outcome.expected, outcome.reported);
    }
}

/* The main function of a program of misuses. */
static inline int run_misuses(int argc, char **argv, const struct misuse *misuses, size_t count) {
    struct CMUnitTest tests[64];
    size_t planned = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc == 3 && strcmp(argv[1], misuses[i].name) == 0)
            run_case(&misuses[i], strtoul(argv[2], NULL, 10));
        must(planned < COUNT_OF(tests));
        if (!ON_GLIBC || misuses[i].flags & ON_GLIBC_TOO)
            tests[planned++] = (struct CMUnitTest){misuses[i].name, misuse_is_reported, NULL, NULL,
                                                   (void *)&misuses[i]};
    }
    must(argc == 1);
    return _cmocka_run_group_tests("misuse", tests, planned, NULL, NULL);
}

#endif /* MISUSE_SUPPORT_H */
