/* SPDX-License-Identifier: MIT
 *
 * Object caches: constructed once, destructed before their memory goes, told apart from what is no
 * object of theirs.
 *
 * usage: objects_core [double | foreign | inside | destroyed | no-cache]    with an argument: a wrong call, which
 *        aborts
 */
#include "self_check.h"

#include <errno.h>
#include <pthread.h>
#include <quarry.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { OBJECTS = 3000, THREADS = 4, ROUNDS = 20000 };

struct thing {
    uint32_t magic, uses;
    char rest[92];
};

static size_t built, torn;
static int refuse;

static int construct(void *object, void *arg) {
    struct thing *thing = object;
    if (refuse)
        return 1;
    CHECK(arg == &built);
    *thing = (struct thing){.magic = 0x7468696e};
    __atomic_fetch_add(&built, 1, __ATOMIC_RELAXED);
    return 0;
}

static void tear_down(void *object, void *arg) {
    struct thing *thing = object;
    CHECK(arg == &built && thing->magic == 0x7468696e);
    thing->magic = 0;
    torn++;
}

static struct quarry_cache *make(const char *name) {
    struct quarry_cache *cache =
        quarry_cache_create(name, sizeof(struct thing), 0, construct, tear_down, &built);
    MUST(cache);
    return cache;
}

static struct quarry_cache_stats row_of(const char *name) {
    struct quarry_cache_stats rows[16];
    size_t count = quarry_cache_stats(rows, 16);
    for (size_t i = 0; i < count && i < 16; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i];
    return (struct quarry_cache_stats){.size = 0};
}

static void check_life(void) {
    static struct thing *thing[OBJECTS];
    struct quarry_cache *cache = make("life");
    for (int i = 0; i < OBJECTS; i++) {
        thing[i] = quarry_cache_alloc(cache);
        MUST(thing[i] && thing[i]->magic == 0x7468696e && thing[i]->uses == 0);
        MUST((uintptr_t)thing[i] % 16 == 0);
        thing[i]->uses = 1;
        memset(thing[i]->rest, i, sizeof thing[i]->rest);
    }
    for (int i = 0; i < OBJECTS; i++)
        MUST(all_bytes(thing[i]->rest, sizeof thing[i]->rest, i & 0xff));
    CHECK(built == OBJECTS && quarry_cache_destroy(cache) == EBUSY);
    for (int i = 0; i < OBJECTS; i++)
        quarry_cache_free(cache, thing[i]);
    for (int i = 0; i < OBJECTS; i++) { /* their state has survived, none is constructed again */
        thing[i] = quarry_cache_alloc(cache);
        MUST(thing[i]->magic == 0x7468696e && thing[i]->uses == 1);
    }
    CHECK(built == OBJECTS && torn == 0 && row_of("life").live_objects == OBJECTS);
    for (int i = 1; i < OBJECTS; i++)
        quarry_cache_free(cache, thing[i]);
    size_t slabs = row_of("life").slabs, bytes = row_of("life").bytes;
    CHECK(slabs > 1 && row_of("life").size == 112);
    CHECK(quarry_cache_reap(cache) == bytes / slabs * (slabs - 1));
    CHECK(torn > 0 && torn < OBJECTS && row_of("life").slabs == 1);
    CHECK(quarry_cache_reap(cache) == 0 && thing[0]->magic == 0x7468696e);
    quarry_cache_free(cache, thing[0]);
    CHECK(quarry_cache_destroy(cache) == 0 && torn == OBJECTS && row_of("life").size == 0);
}

/* Processor time that a reap of many empty slabs takes behind so many that are in use. */
static double reap_behind(size_t in_use) {
    enum { SLABS = 4096, EACH = 8 };
    static void *object[2 * SLABS * EACH];
    struct quarry_cache *cache = quarry_cache_create("reap", 4000, 0, NULL, NULL, NULL);
    struct timespec start, end;
    MUST(cache && in_use <= SLABS);
    for (size_t i = 0; i < (SLABS + in_use) * EACH; i++)
        MUST(object[i] = quarry_cache_alloc(cache));
    CHECK(row_of("reap").slabs == SLABS + in_use);
    size_t bytes = row_of("reap").bytes / (SLABS + in_use) * SLABS;
    for (size_t i = 0; i < SLABS * EACH; i++)
        quarry_cache_free(cache, object[i]);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    CHECK(quarry_cache_reap(cache) == bytes);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    for (size_t i = SLABS * EACH; i < (SLABS + in_use) * EACH; i++)
        quarry_cache_free(cache, object[i]);
    CHECK(quarry_cache_destroy(cache) == 0);
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
}

/* A reap looks at each slab once, whatever lies between. */
static void check_reap_time(void) {
    double alone = reap_behind(0), behind = reap_behind(4096);
    CHECK(behind < 4 * alone + 0.05);
    say("# reaped in %.4f s, behind slabs in use in %.4f s\n", alone, behind);
}

static void check_refusals(void) {
    static const char *const names[] = {"", "a b", "a\"b", "12345678901234567890123456789012"};
    for (int i = 0; i < 4; i++) {
        errno = 0;
        CHECK(!quarry_cache_create(names[i], 8, 0, NULL, NULL, NULL) && errno == EINVAL);
    }
    CHECK(!quarry_cache_create("large", 2 << 20, 0, NULL, NULL, NULL));
    static const size_t no_alignments[] = {3, 6, 15, 48, 8192};
    for (int i = 0; i < 5; i++) {
        errno = 0;
        CHECK(!quarry_cache_create("align", 8, no_alignments[i], NULL, NULL, NULL) &&
              errno == EINVAL);
    }
    struct quarry_cache *narrow = quarry_cache_create("narrow", 0, 2, NULL, NULL, NULL);
    void *first = narrow ? quarry_cache_alloc(narrow) : NULL;
    CHECK(first && (uintptr_t)first % 16 == 0);
    quarry_cache_free(narrow, first);
    CHECK(narrow && quarry_cache_destroy(narrow) == 0);
    struct quarry_cache *cache = make("refusals");
    refuse = 1;
    errno = 0;
    CHECK(!quarry_cache_alloc(cache) && errno == ENOMEM);
    refuse = 0;
    struct thing *thing = quarry_cache_alloc(cache);
    CHECK(thing && thing->magic == 0x7468696e);
    quarry_cache_free(cache, thing);
    quarry_cache_free(cache, NULL);
    CHECK(quarry_cache_destroy(cache) == 0);
    quarry_set_limit(1);
    cache = make("limited");
    errno = 0;
    CHECK(!quarry_cache_alloc(cache) && errno == ENOMEM);
    quarry_set_limit(0);
    CHECK(quarry_cache_destroy(cache) == 0);
}

/* What a cache holds beyond its objects: its slabs' headers and tails. */
static void check_waste(void) {
    for (size_t size = 1; size <= 1 << 20; size += 1 + size / 40)
        for (size_t align = 16; align <= 4096; align *= 2) {
            struct quarry_cache *cache =
                quarry_cache_create("waste", size, align, NULL, NULL, NULL);
            void *object = quarry_cache_alloc(cache);
            struct quarry_cache_stats row = row_of("waste");
            MUST(object && row.slabs == 1);
            size_t objects = row.size * (row.live_objects + row.free_objects);
            CHECK(objects <= row.bytes && row.bytes - objects <= row.bytes / 8);
            quarry_cache_free(cache, object);
            CHECK(quarry_cache_destroy(cache) == 0);
        }
}

static void check_shapes(void) {
    static const size_t sizes[] = {0, 1, 17, 4096, 5000, 100000, 1 << 20};
    for (int i = 0; i < 7; i++)
        for (size_t align = 0; align <= 4096; align = align ? align * 16 : 16) {
            char *object[40];
            struct quarry_cache *cache =
                quarry_cache_create("shape", sizes[i], align, NULL, NULL, NULL);
            MUST(cache);
            for (int k = 0; k < 40; k++) {
                MUST(object[k] = quarry_cache_alloc(cache));
                CHECK(align == 0 || (uintptr_t)object[k] % align == 0);
                memset(object[k], k, sizes[i]);
            }
            for (int k = 0; k < 40; k++) {
                CHECK(all_bytes(object[k], sizes[i], k));
                quarry_cache_free(cache, object[k]);
            }
            CHECK(quarry_cache_destroy(cache) == 0);
        }
}

static size_t count_in(const char *text, const char *words) {
    size_t count = 0;
    while ((text = strstr(text, words)) != NULL) {
        text += strlen(words);
        count++;
    }
    return count;
}

/* More caches than are written one by one are at least counted. */
static void check_formats(void) {
    static const struct {
        enum quarry_format format;
        const char *count, *row;
    } forms[] = {
        {QUARRY_TEXT, "\n70 object caches\n", "\nmany-"},
        {QUARRY_JSON, "\"object_cache_count\": 70,", "\"name\": \"many-"},
        {QUARRY_OPENMETRICS, "\nquarry_object_caches 70\n", "_live_objects{cache=\"many-"}};
    struct quarry_cache *cache[70];
    for (int i = 0; i < 70; i++) {
        char name[QUARRY_CACHE_NAME_BYTES];
        snprintf(name, sizeof name, "many-%d", i);
        MUST(cache[i] = make(name));
    }
    for (int i = 0; i < 3; i++) {
        char *text = NULL;
        size_t size = 0;
        FILE *stream = open_memstream(&text, &size);
        MUST(stream && quarry_write_stats(stream, forms[i].format) == 0 && fclose(stream) == 0);
        CHECK(count_in(text, forms[i].count) == 1 && count_in(text, forms[i].row) == 64);
        free(text);
    }
    for (int i = 0; i < 70; i++)
        CHECK(quarry_cache_destroy(cache[i]) == 0);
}

static void *use(void *cache) {
    struct thing *own[50] = {NULL};
    for (int round = 0; round < ROUNDS; round++) {
        struct thing **slot = &own[round * 7919 % 50];
        if (*slot) {
            MUST((*slot)->uses == (uint32_t)(uintptr_t)own);
            quarry_cache_free(cache, *slot);
            *slot = NULL;
        } else {
            MUST(*slot = quarry_cache_alloc(cache));
            (*slot)->uses = (uint32_t)(uintptr_t)own;
        }
        if (round % 1000 == 0)
            quarry_cache_reap(cache);
    }
    for (int i = 0; i < 50; i++)
        quarry_cache_free(cache, own[i]);
    return NULL;
}

static void check_threads_and_forks(void) {
    pthread_t thread[THREADS];
    struct quarry_cache *cache = make("threads");
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, use, cache) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            use(cache);
            _exit(check_failures != 0);
        }
        int status = 0;
        MUST(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    CHECK(row_of("threads").live_objects == 0);
    CHECK(quarry_cache_destroy(cache) == 0);
}

static struct {
    struct quarry_cache *cache;
    void *object;
    int ready;
} race;

static void *free_in_race(void *unused) {
    __atomic_add_fetch(&race.ready, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&race.ready, __ATOMIC_SEQ_CST) < 2) {
    }
    quarry_cache_free(race.cache, race.object);
    return unused;
}

/* Two threads free one object at the same time: one of them is stopped. */
static void free_twice_at_once(void) {
    pthread_t thread;
    MUST(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) == 0);
    MUST(freopen("/dev/null", "w", stderr));
    race.cache = make("race");
    MUST(race.object = quarry_cache_alloc(race.cache));
    MUST(pthread_create(&thread, NULL, free_in_race, NULL) == 0);
    free_in_race(NULL);
    pthread_join(thread, NULL);
}

static void check_double_frees_at_once(void) {
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0) {
            free_twice_at_once();
            _exit(0);
        }
        int status = 0;
        MUST(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

static void misuse(const char *how) {
    struct quarry_cache *cache = make("wrong"), *gone = make("gone");
    char *object = quarry_cache_alloc(cache), other[200];
    MUST(object && quarry_cache_destroy(gone) == 0);
    if (strcmp(how, "destroyed") == 0)
        quarry_cache_destroy(gone);
    if (strcmp(how, "no-cache") == 0)
        quarry_cache_destroy(NULL);
    if (strcmp(how, "double") == 0)
        quarry_cache_free(cache, object);
    quarry_cache_free(cache, strcmp(how, "foreign") == 0  ? other
                             : strcmp(how, "inside") == 0 ? object + 16
                                                          : object);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        misuse(argv[1]);
        return 0;
    }
    check_life();
    check_reap_time();
    check_refusals();
    check_waste();
    check_formats();
    check_shapes();
    check_threads_and_forks();
    check_double_frees_at_once();
    return finish();
}
