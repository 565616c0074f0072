/* SPDX-License-Identifier: MIT
 *
 * Programs with one planted fault each, for valgrind to find; "none" is correct.
 *
 * usage: faults none|leak|read-past|write-past|read-freed|uninitialised|double-free
 */
#include "self_check.h"

#include <malloc.h>
#include <pthread.h>

static volatile char sink;

static __attribute__((noinline)) char *make(size_t bytes) {
    char *block = malloc(bytes);
    MUST(block);
    memset(block, 1, bytes);
    return block;
}

static void *run_thread(void *unused) {
    for (size_t i = 0; i < 300; i++)
        free(make(i * 11));
    return unused;
}

static void do_nothing_wrong(void) {
    pthread_t thread;
    void *aligned = NULL;
    for (size_t i = 0; i < 2000; i++) {
        char *block = make(i % 500);
        block = realloc(block, i % 700 + 1);
        free(block);
    }
    free(calloc(30, 30));
    free(memalign(256, 100));
    free(aligned_alloc(64, 640));
    MUST(posix_memalign(&aligned, 4096, 10000) == 0);
    free(aligned);
    free(make(300000));
    free(strdup("text"));
    MUST(malloc_usable_size(NULL) == 0);
    MUST(pthread_create(&thread, NULL, run_thread, NULL) == 0);
    MUST(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    const char *fault = argv[1];
    do_nothing_wrong();
    char *block = make(1003), *leaked = make(1234);
    if (strcmp(fault, "read-past") == 0)
        sink = block[1003];
    if (strcmp(fault, "write-past") == 0)
        block[1003] = 1;
    if (strcmp(fault, "uninitialised") == 0) {
        char *fresh = malloc(100);
        if (fresh[50] == 'x')
            say("an x\n");
        free(fresh);
    }
    free(block);
    if (strcmp(fault, "read-freed") == 0)
        sink = block[500];
    if (strcmp(fault, "double-free") == 0)
        free(block);
    if (strcmp(fault, "leak") != 0)
        free(leaked);
    leaked = NULL;
    return finish();
}
