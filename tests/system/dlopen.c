/* SPDX-License-Identifier: MIT
 *
 * Loads libquarry late, by dlopen, into a program whose threads already run on libc's malloc, and
 * uses it through its own names beside libc's: two allocators that share the program break.
 *
 * usage: dlopen LIBRARY local|deepbind|keys
 *   keys: as local, in a program that has created all thread-specific keys there are
 */
#include "self_check.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>

enum { THREADS = 12, ROUNDS = 3000, KEPT = 40 };

struct api {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void (*free)(void *);
    size_t (*usable)(void *);
    int (*trim)(size_t);
    struct mallinfo2 (*info)(void);
};

static struct api quarry, *api; /* api is NULL until it is there */
static sem_t met, closed;       /* threads that have used it; leave to end */

static void *symbol(void *handle, const char *name) {
    void *address = dlsym(handle, name);
    if (!address)
        say("%s\n", dlerror());
    MUST(address);
    return address;
}

static void look_up(void *handle) {
    quarry.malloc = (void *(*)(size_t))symbol(handle, "quarry_malloc");
    quarry.calloc = (void *(*)(size_t, size_t))symbol(handle, "quarry_calloc");
    quarry.realloc = (void *(*)(void *, size_t))symbol(handle, "quarry_realloc");
    quarry.memalign = (void *(*)(size_t, size_t))symbol(handle, "quarry_memalign");
    quarry.free = (void (*)(void *))symbol(handle, "quarry_free");
    quarry.usable = (size_t(*)(void *))symbol(handle, "quarry_malloc_usable_size");
    quarry.trim = (int (*)(size_t))symbol(handle, "quarry_malloc_trim");
    quarry.info = (struct mallinfo2(*)(void))symbol(handle, "quarry_mallinfo2");
}

/* One block of each allocator, changed in turns. */
struct pair {
    void *libcs, *quarrys;
    size_t bytes;
};

static void change(struct pair *pair, unsigned seed, size_t bytes, const struct api *now) {
    CHECK(intact(pair->libcs, pair->bytes, seed));
    pair->libcs = realloc(pair->libcs, bytes);
    MUST(pair->libcs);
    fill(pair->libcs, bytes, seed);
    if (now) {
        CHECK(!pair->quarrys || intact(pair->quarrys, pair->bytes, seed));
        pair->quarrys = now->realloc(pair->quarrys, bytes);
        MUST(pair->quarrys && now->usable(pair->quarrys) >= bytes);
        fill(pair->quarrys, bytes, seed);
    }
    pair->bytes = bytes;
}

static void *churn(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument, left = ROUNDS;
    struct pair pair[KEPT];
    memset(pair, 0, sizeof pair);
    for (unsigned i = 0; left > 0; i++) {
        struct api *now = __atomic_load_n(&api, __ATOMIC_ACQUIRE);
        change(&pair[i % KEPT], seed + i % KEPT, i * 61 % 5000 + (i % 200 == 0 ? 200000 : 1), now);
        left -= now != NULL;
    }
    sem_post(&met);
    while (sem_wait(&closed) != 0)
        continue;
    for (unsigned i = 0; i < KEPT; i++) { /* blocks outlive dlclose, and so does the code */
        CHECK(intact(pair[i].libcs, pair[i].bytes, seed + i));
        CHECK(intact(pair[i].quarrys, pair[i].bytes, seed + i));
        free(pair[i].libcs);
        quarry.free(pair[i].quarrys);
    }
    quarry.free(quarry.malloc(100));
    return NULL;
}

static void *load(const char *library, int flags) {
    void *handle = dlopen(library, flags);
    if (!handle)
        say("%s\n", dlerror());
    MUST(handle);
    return handle;
}

static void take_all_keys(void) {
    pthread_key_t key;
    int error, count = 0;
    while ((error = pthread_key_create(&key, NULL)) == 0)
        count++;
    CHECK(error == EAGAIN && count > PTHREAD_KEYS_MAX / 2);
}

int main(int argc, char **argv) {
    pthread_t thread[THREADS];
    MUST(argc == 3);
    int deep = strcmp(argv[2], "deepbind") == 0;
    int flags = RTLD_NOW | (deep ? RTLD_GLOBAL | RTLD_DEEPBIND : RTLD_LOCAL);
    if (strcmp(argv[2], "keys") == 0)
        take_all_keys();
    MUST(sem_init(&met, 0, 0) == 0 && sem_init(&closed, 0, 0) == 0);
    void *libcs_malloc = symbol(RTLD_DEFAULT, "malloc");
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, churn, (void *)(i * 100)) == 0);
    void *handle = load(argv[1], flags);
    look_up(handle);
    CHECK(symbol(RTLD_DEFAULT, "malloc") == libcs_malloc); /* the program keeps its own */
    CHECK(symbol(handle, "malloc") != libcs_malloc);
    if (deep) { /* through the library's own dlopen: libc's names stay libc's */
        void *(*open)(const char *, int) = (void *(*)(const char *, int))symbol(handle, "dlopen");
        CHECK((void *)open != symbol(RTLD_DEFAULT, "dlopen"));
        CHECK(open(argv[1], flags) == handle && dlclose(handle) == 0);
        CHECK(symbol(RTLD_DEFAULT, "malloc") == libcs_malloc);
    }
    void *early = quarry.calloc(100, 10);
    CHECK(early && all_bytes(early, 1000, 0));
    __atomic_store_n(&api, &quarry, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++)
        while (sem_wait(&met) != 0)
            continue;
    CHECK(quarry.info().uordblks > THREADS * KEPT);
    void *later = load(argv[1], flags);
    CHECK(later == handle && dlclose(later) == 0);
    CHECK(dlclose(handle) == 0);
    CHECK(all_bytes(early, 1000, 0));
    for (int i = 0; i < THREADS; i++)
        sem_post(&closed);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(thread[i], NULL) == 0);
    handle = load(argv[1], flags);
    CHECK(symbol(handle, "quarry_malloc") == (void *)quarry.malloc); /* it never went */
    quarry.free(early);
    quarry.free(quarry.memalign(4096, 100000));
    quarry.trim(0);
    CHECK(quarry.info().hblks == 0);
    say("%zu bytes in use\n", quarry.info().uordblks);
    return finish();
}
