/* SPDX-License-Identifier: MIT
 *
 * Allocates in every phase of a process, from the array that runs before all constructors to what
 * runs after main, and in the last moments of threads.  Each block is freed in a later phase than
 * the one that made it.  Prints the phases in order; a last argument "silent" prints nothing, so
 * that the exit status alone tells.
 */
#include "self_check.h"

#include <limits.h>
#include <pthread.h>
#include <quarry.h>

#pragma weak quarry_version
#pragma weak quarry_malloc_usable_size

int __cxa_thread_atexit_impl(void (*destructor)(void *), void *argument, void *dso);
extern void *__dso_handle;

enum { BLOCKS = 200, MORE_ROUNDS = 6 };

struct blocks {
    void *block[BLOCKS];
};

static struct blocks of_preinit, of_constructor, of_main, of_exit;
static int silent;

static void phase(const char *name) {
    if (!silent)
        say("%s\n", name);
}

static size_t size_of(unsigned i) {
    return i % 50 == 49 ? i * 5000 : i * i % 3000;
}

static void make(struct blocks *blocks, unsigned seed) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks->block[i] = malloc(size_of(i));
        MUST(blocks->block[i]);
        fill(blocks->block[i], size_of(i), seed + i);
        if (quarry_malloc_usable_size)
            CHECK(quarry_malloc_usable_size(blocks->block[i]) >= size_of(i));
    }
}

static void destroy(struct blocks *blocks, unsigned seed) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        CHECK(intact(blocks->block[i], size_of(i), seed + i));
        free(blocks->block[i]);
    }
}

static void run_preinit(int argc, char **argv, char **environment) {
    (void)environment;
    silent = argc > 1 && strcmp(argv[argc - 1], "silent") == 0;
    make(&of_preinit, 1);
    phase("preinit");
}

__attribute__((section(".preinit_array"), used)) static void (*preinit)(int, char **,
                                                                        char **) = run_preinit;

__attribute__((constructor(101))) static void run_constructor(void) {
    make(&of_constructor, 2);
    destroy(&of_preinit, 1);
    phase("constructor");
}

/* ---- the end of threads ---- */

static pthread_key_t first_key, last_key;

/* Comes back in every round that the library grants, and allocates in each. */
static void run_key_destructor(void *value) {
    struct blocks local;
    unsigned *rounds = value;
    make(&local, 7);
    destroy(&local, 7);
    if (++*rounds < MORE_ROUNDS)
        pthread_setspecific(first_key, value);
}

static void free_value(void *value) {
    free(value);
}

static void run_thread_local_destructor(void *argument) {
    struct blocks *blocks = argument;
    destroy(blocks, 5);
    free(blocks);
}

static void *run_thread(void *argument) {
    struct blocks *blocks = malloc(sizeof *blocks);
    MUST(blocks);
    make(blocks, 5);
    CHECK(__cxa_thread_atexit_impl(run_thread_local_destructor, blocks, &__dso_handle) == 0);
    CHECK(pthread_setspecific(first_key, argument) == 0);
    CHECK(pthread_setspecific(last_key, malloc(100)) == 0);
    return NULL;
}

/* The only call of this thread into the allocator comes from its destructor. */
static void *run_quiet_thread(void *argument) {
    CHECK(pthread_setspecific(first_key, argument) == 0);
    return NULL;
}

static void end_threads(void) {
    unsigned rounds[20] = {0};
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, i % 2 ? run_thread : run_quiet_thread, &rounds[i]) == 0);
        MUST(pthread_join(thread, NULL) == 0);
        CHECK(rounds[i] == PTHREAD_DESTRUCTOR_ITERATIONS);
    }
    phase("ends of threads");
}

/* ---- the end of the process ---- */

static void run_at_exit(void) {
    make(&of_exit, 4);
    destroy(&of_main, 3);
    phase("atexit");
}

__attribute__((destructor(101))) static void run_destructor(void) {
    struct blocks local;
    destroy(&of_exit, 4);
    make(&local, 6);
    destroy(&local, 6);
    free(malloc(5 << 20));
    phase("destructor");
    if (!silent)
        finish();
    if (check_failures)
        _exit(1);
}

/* Goes on after main has ended by pthread_exit; its end ends the process. */
static void *outlive_main(void *argument) {
    pthread_t *of_main_thread = argument;
    CHECK(pthread_join(*of_main_thread, NULL) == 0);
    struct blocks local;
    make(&local, 8);
    destroy(&local, 8);
    phase("after main's thread");
    return NULL;
}

int main(int argc, char **argv) {
    static pthread_t self, other;
    if (quarry_version)
        phase("on Quarry");
    make(&of_main, 3);
    destroy(&of_constructor, 2);
    MUST(atexit(run_at_exit) == 0);
    MUST(pthread_key_create(&first_key, run_key_destructor) == 0);
    MUST(pthread_key_create(&last_key, free_value) == 0);
    end_threads();
    phase("main");
    if (argc > 1 && strcmp(argv[1], "main-ends-first") == 0) {
        self = pthread_self();
        MUST(pthread_create(&other, NULL, outlive_main, &self) == 0);
        pthread_exit(NULL);
    }
    return 0;
}
