/* SPDX-License-Identifier: MIT
 *
 * A library that needs libc alone, and so is initialised before a libquarry that was preloaded ahead
 * of it, and finished after it.  Its constructor makes the first allocations of the process, many.
 */
#include "self_check.h"

#include <pthread.h>

enum { BLOCKS = 500 };

static void *kept[BLOCKS];

static void *allocate_in_thread(void *unused) {
    (void)unused;
    for (unsigned i = 0; i < BLOCKS; i++)
        free(malloc(i * 3));
    return strdup("before any other constructor");
}

__attribute__((constructor)) static void before_all(void) {
    void *text = NULL;
    pthread_t thread;
    for (unsigned i = 0; i < BLOCKS; i++) {
        kept[i] = malloc(i * 7);
        MUST(kept[i]);
        fill(kept[i], i * 7, i);
    }
    for (unsigned i = 0; i < BLOCKS; i += 2) {
        free(kept[i]);
        kept[i] = NULL;
    }
    MUST(pthread_create(&thread, NULL, allocate_in_thread, NULL) == 0);
    MUST(pthread_join(thread, &text) == 0);
    CHECK(strcmp(text, "before any other constructor") == 0);
    free(text);
    if (getenv("EARLY_MODULE_TELLS"))
        say("module: constructor\n");
}

__attribute__((destructor)) static void after_all(void) {
    for (unsigned i = 1; i < BLOCKS; i += 2) {
        CHECK(intact(kept[i], i * 7, i));
        kept[i] = realloc(kept[i], i * 50 + 1);
        MUST(kept[i] && intact(kept[i], i * 7, i));
        free(kept[i]);
    }
    free(malloc(1 << 20));
    if (getenv("EARLY_MODULE_TELLS"))
        say("module: destructor, %d failures\n", check_failures);
}
