/* SPDX-License-Identifier: MIT
 *
 * test_figures.c: the library's own figures, read while threads run.  tests/system/test_figures.py
 * compares them with the kernel's on a quiet process.
 */
#include "support.h"

#include <pthread.h>

#include "api_under_test.h"

#ifndef TEST_LIBC
#include <quarry.h>
#endif

enum { THREADS = 2, SLOTS = 300, READS = 30 };

static bool stop;
static int started; /* threads that have allocated */

static void *allocate_at_random(void *seed) {
    void *own[SLOTS] = {NULL};
    struct rng rng = {(uint64_t)(uintptr_t)seed};
    for (long count = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); count++) {
        uint64_t word = mix64(++rng.state);
        void **slot = &own[word % SLOTS];
        if (*slot) {
            t_free(*slot);
            *slot = NULL;
        } else {
            *slot = t_malloc(1 + (word >> 32) % (word & 1024 ? 300000 : 500));
            must(*slot != NULL);
            *(char *)*slot = 1;
        }
        if (count == SLOTS)
            __atomic_fetch_add(&started, 1, __ATOMIC_RELAXED);
    }
    for (int i = 0; i < SLOTS; i++)
        t_free(own[i]);
    return NULL;
}

#ifdef TEST_LIBC
static void read_figures(void) {
    struct mallinfo2 info = t_mallinfo2();
    must(info.uordblks + info.fordblks == info.arena);
}

static void read_document(void) {
}

static void trim(void) {
    t_malloc_trim(0);
}
#else
static void read_figures(void) {
    struct quarry_stats stats;
    struct quarry_class_stats classes[100];
    must(quarry_stats(&stats, sizeof stats) == sizeof stats);
    must(stats.resident_bytes == stats.resident_live_bytes + stats.resident_cached_bytes +
                                     stats.resident_free_bytes + stats.resident_dirty_bytes +
                                     stats.resident_metadata_bytes);
    size_t count = quarry_class_stats(classes, COUNT_OF(classes));
    must(count > 10 && count <= COUNT_OF(classes));
    for (size_t i = 0; i < count; i++) {
        must(classes[i].size > (i ? classes[i - 1].size : 0));
        must(classes[i].cached_objects <= classes[i].taken_objects);
    }
}

static size_t number_after(const char *text, const char *words) {
    const char *found = strstr(text, words);
    must(found != NULL);
    return strtoul(found + strlen(words), NULL, 10);
}

/* What malloc_info says in glibc's elements and in Quarry's own is of one reading. */
static void read_document(void) {
    static char text[1 << 16], buffer[1 << 16];
    FILE *stream = fmemopen(text, sizeof text, "w");
    must(stream != NULL && setvbuf(stream, buffer, _IOFBF, sizeof buffer) == 0);
    must(t_malloc_info(0, stream) == 0 && fclose(stream) == 0);
    const char *heap = strstr(text, "</heap>"), *next; /* the totals follow the last */
    while (heap && (next = strstr(heap + 1, "</heap>")))
        heap = next;
    const char *rest = heap ? strstr(heap, "<total type=\"rest\"") : NULL;
    must(rest != NULL);
    must(number_after(rest, "size=\"") ==
         number_after(text, "<figure name=\"free_object_bytes\" value=\"") +
             number_after(text, "<figure name=\"dirty_bytes\" value=\"") +
             number_after(text, "<figure name=\"clean_bytes\" value=\""));
}

static void trim(void) {
    struct quarry_trim_report report;
    quarry_trim(0, &report, sizeof report);
}
#endif

/* Of a cached run only what was written to is resident, and nobody holds the rest. */
static void cache_a_run_in_child(void) {
#ifndef TEST_LIBC
    struct quarry_stats stats;
    for (int i = 0; i < 100; i++) {
        char *block = t_malloc(120000);
        must(block != NULL);
        *block = 1;
        t_free(block);
    }
    must(quarry_stats(&stats, sizeof stats) == sizeof stats);
    must(stats.cached_bytes >= 120000);
    must(stats.resident_cached_bytes + 100000 <= stats.cached_bytes);
    must(stats.resident_live_bytes + stats.untouched_bytes < 100000);
#endif
}

static void read_while_threads_run(void) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, allocate_at_random, (void *)i) == 0);
    while (__atomic_load_n(&started, __ATOMIC_RELAXED) < THREADS)
        usleep(100);
    for (int i = 0; i < READS; i++) {
        read_figures();
        read_document();
    }
    trim();
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++)
        must(pthread_join(threads[i], NULL) == 0);
    read_figures();
}

static void figures_are_read_while_threads_run(void **state) {
    (void)state;
    assert_child_succeeds(read_while_threads_run);
}

static void a_cached_run_is_not_all_resident(void **state) {
    (void)state;
    assert_child_succeeds(cache_a_run_in_child);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cached_run_is_not_all_resident),
        cmocka_unit_test(figures_are_read_while_threads_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
