/* SPDX-License-Identifier: MIT
 *
 * Exchanges blocks with a module that is loaded with RTLD_DEEPBIND, then frees blocks of libc's malloc.
 *
 * usage: deepbind MODULE, with Quarry preloaded; a MODULE without a slash lies where this program does
 */
#include "self_check.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>

enum { BLOCKS = 8, THREADS = 8 };

/* A name that both have: the module has to see libc's, or it would not be bound deeply. */
int rand(void) {
    return -1;
}

static const size_t sizes[] = {10, 1000, 50000, 1 << 20};
static pthread_barrier_t together;

static void *symbol(void *handle, const char *name) {
    void *found = dlsym(handle, name);
    if (!found)
        say("%s\n", dlerror());
    MUST(found);
    return found;
}

static void *load(const char *name, int mode) {
    void *handle = dlopen(name, mode);
    if (!handle)
        say("%s\n", dlerror());
    MUST(handle);
    return handle;
}

static void *exchange(void *module) {
    pthread_barrier_wait(&together);
    void *handle = load(module, RTLD_NOW | RTLD_DEEPBIND);
    void *(*take)(size_t) = (void *(*)(size_t))symbol(handle, "module_take");
    void *(*grow)(void *, size_t) = (void *(*)(void *, size_t))symbol(handle, "module_grow");
    void (*give)(void *) = (void (*)(void *))symbol(handle, "module_give");
    for (int round = 0; round < 1000; round++) {
        size_t size = sizes[round % 4];
        char *theirs = take(size), *ours = malloc(size);
        MUST(theirs && ours);
        CHECK(malloc_usable_size(theirs) >= size && malloc_usable_size(theirs) < 2 * size + 16);
        theirs = realloc(theirs, size + 100);
        ours = grow(ours, size + 100);
        MUST(theirs && ours);
        CHECK(theirs[0] == 'm' && theirs[size - 1] == 'm');
        free(theirs);
        give(ours);
    }
    return handle;
}

static void check_module(const char *name) {
    pthread_t thread[THREADS];
    MUST(pthread_barrier_init(&together, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, exchange, (void *)(uintptr_t)name) == 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    void *handle = load(name, RTLD_NOW | RTLD_DEEPBIND);
    CHECK(symbol(handle, "malloc") == (void *)malloc);
    CHECK(((int (*)(void))symbol(handle, "module_rand"))() >= 0);
    free(((void *(*)(void))symbol(handle, "module_keepsake"))());
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    void *libc = load("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    void *(*take)(size_t) = (void *(*)(size_t))symbol(libc, "malloc");
    struct mallinfo2 (*figures)(void) = (struct mallinfo2(*)(void))symbol(libc, "mallinfo2");
    CHECK((void *)take != (void *)malloc);
    void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        MUST((blocks[i] = take(sizes[i % 4])));
    size_t before = figures().uordblks + figures().hblkhd;
    CHECK(before > 2 * sizes[3]);
    check_module(argv[1]);
    CHECK(figures().uordblks + figures().hblkhd == before); /* libc's malloc was not called */
    say("first block %p\n", blocks[0]);
    errno = 7;
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    CHECK(errno == 7);
    say("given back: %s\n", figures().uordblks + figures().hblkhd < before / 2 ? "yes" : "no");
    char *own = strdup("still fine");
    CHECK(strcmp(own, "still fine") == 0);
    free(own);
    return finish();
}
