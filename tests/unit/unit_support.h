/* SPDX-License-Identifier: MIT
 *
 * unit_support.h: what the unit tests share beyond the API tests' support.h.
 *
 * The heap's state is global and is initialised before main.  A test that needs it fresh, or leaves
 * it bent, runs as a body in a child (body_test) and checks with must().
 */
#ifndef QUARRY_UNIT_SUPPORT_H
#define QUARRY_UNIT_SUPPORT_H

#include "fake_os.h"
#include "page.h"
#include "slab.h"
#include "support.h"

#include <pthread.h>
#include <signal.h>

/* As must(), for functions that return "" or what is wrong. */
#define must_hold(expression) must_be_empty((expression), __FILE__, __LINE__)

static inline void must_be_empty(const char *text, const char *file, int line) {
    if (*text)
        must_failed(text, file, line);
}

/* Everything that can be said of a heap while nothing runs. */
#define must_be_sound()                \
    do {                               \
        must_hold(shadow_violation()); \
        must_hold(page_verify());      \
        must_hold(slab_verify());      \
    } while (0)

/* INV-ZONE-1: what the page map calls ours was obtained from the system, and nothing else was. */
static inline const char *page_map_matches_books(void) {
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        const struct region *region = pagemap_ranked(rank);
        for (unsigned page = 0; page < REGION_PAGES; page++) {
            uintptr_t at = region->base + ((uintptr_t)page << PAGE_SHIFT);
            if (head_kind(region->head[page]) != HEAD_ABSENT && !shadow_ours(at, at + PAGE_BYTES))
                return "INV-ZONE-1";
        }
    }
    return "";
}

/* Starts body in a child.  cmocka's handlers would go on with its tests there after a crash. */
static inline pid_t start_child(void (*body)(void), int error_fd) {
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid != 0)
        return pid;
    for (size_t i = 0; i < COUNT_OF(fatal); i++)
        signal(fatal[i], SIG_DFL);
    alarm(CHILD_LIMIT_SECONDS);
    if (error_fd >= 0)
        dup2(error_fd, STDERR_FILENO);
    body();
    fflush(stdout);
    _exit(0);
}

/* A test that is a body in a child, for cmocka's table: it fails unless all must()s in it hold. */
#define body_test(body) \
    { #body, run_body, NULL, NULL, (void *)(uintptr_t)(body) }

static inline void run_body(void **state) {
    void (*body)(void) = (void (*)(void))(uintptr_t)*state;
    assert_int_equal(wait_for(start_child(body, -1)), 0);
}

/* How a child that is meant to die ended, and what it wrote to standard error. */
struct outcome {
    int status;
    char text[2048];
};

static inline struct outcome run_and_catch(void (*body)(void)) {
    struct outcome outcome = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = start_child(body, ends[1]);
    close(ends[1]);
    size_t length = 0;
    ssize_t got = 1;
    while (got > 0 && length < sizeof outcome.text - 1) {
        got = read(ends[0], outcome.text + length, sizeof outcome.text - 1 - length);
        length += got > 0 ? (size_t)got : 0;
    }
    close(ends[0]);
    outcome.status = wait_for(pid);
    return outcome;
}

static inline bool died_of(struct outcome outcome, int signal_number) {
    return WIFSIGNALED(outcome.status) && WTERMSIG(outcome.status) == signal_number;
}

/* Runs the body in a thread of its own, to its end. */
static inline void in_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, body, argument) == 0);
    must(pthread_join(thread, NULL) == 0);
}

#endif
