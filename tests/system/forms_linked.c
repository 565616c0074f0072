/* SPDX-License-Identifier: MIT
 *
 * Uses the whole malloc family, and what of libc allocates, and checks that every block is Quarry's.
 * How Quarry gets into the program is the caller's choice: preloaded, or linked in any way.
 */
#include "self_check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <quarry.h>
#include <regex.h>
#include <sys/wait.h>

/* Weak, so that the program links with libc alone, to be preloaded. */
#pragma weak quarry_version
#pragma weak quarry_malloc_usable_size
#pragma weak quarry_mallinfo2
#pragma weak quarry_stats
#pragma weak free_sized
#pragma weak free_aligned_sized
void free_sized(void *block, size_t size);
void free_aligned_sized(void *block, size_t alignment, size_t size);
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void *__libc_valloc(size_t size);
void *__libc_pvalloc(size_t size);
int __libc_mallopt(int parameter, int value);
struct mallinfo __libc_mallinfo(void);
void __libc_free(void *block);
void cfree(void *block);

/* Quarry aborts when it is asked about a block of another allocator. */
static int is_quarrys(void *block) {
    return block && quarry_malloc_usable_size(block) == malloc_usable_size(block) &&
           malloc_usable_size(block) > 0;
}

static void release(void *block) {
    CHECK(is_quarrys(block));
    free(block);
}

static void test_allocation(void) {
    static const size_t sizes[] = {0, 1, 16, 100, 1000, 16384, 16385, 100000, 3000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i];
        char *block = malloc(size);
        MUST(block && malloc_usable_size(block) >= size);
        fill(block, size, (unsigned)i);
        block = realloc(block, size * 2 + 1);
        MUST(is_quarrys(block) && intact(block, size, (unsigned)i));
        block = reallocarray(block, size + 5, 3);
        MUST(is_quarrys(block) && intact(block, size, (unsigned)i));
        release(block);
        block = calloc(size, 2);
        CHECK(all_bytes(block, size * 2, 0));
        release(block);
    }
    errno = 0;
    CHECK(malloc(SIZE_MAX) == NULL && errno == ENOMEM);
    CHECK(calloc(SIZE_MAX / 2, 3) == NULL && reallocarray(NULL, SIZE_MAX / 2, 3) == NULL);
    CHECK(realloc(malloc(10), 0) == NULL);
}

static void test_alignment(void) {
    for (size_t align = 16; align <= 1 << 21; align *= 4)
        for (size_t size = 0; size < 300000; size = size * 9 + 1) {
            void *of_posix = NULL, *of_memalign = memalign(align, size);
            void *of_c11 = aligned_alloc(align, size);
            CHECK(posix_memalign(&of_posix, align, size) == 0);
            CHECK((uintptr_t)of_memalign % align == 0 && (uintptr_t)of_c11 % align == 0 &&
                  (uintptr_t)of_posix % align == 0);
            memset(of_memalign, 1, size);
            memset(of_c11, 1, size);
            memset(of_posix, 1, size);
            release(of_memalign);
            release(of_c11);
            release(of_posix);
        }
    void *of_valloc = valloc(10), *of_pvalloc = pvalloc(5000);
    CHECK((uintptr_t)of_valloc % 4096 == 0 && (uintptr_t)of_pvalloc % 4096 == 0);
    CHECK(malloc_usable_size(of_pvalloc) >= 8192);
    release(of_valloc);
    release(of_pvalloc);
    if (free_sized) {
        free_sized(malloc(100), 100);
        free_aligned_sized(aligned_alloc(64, 128), 64, 128);
    }
}

static void test_aliases(void) {
    release(__libc_malloc(10));
    release(__libc_calloc(3, 10));
    release(__libc_realloc(malloc(5), 20));
    release(__libc_memalign(64, 10));
    void *of_valloc = __libc_valloc(10), *of_pvalloc = __libc_pvalloc(5000);
    CHECK((uintptr_t)of_valloc % 4096 == 0 && malloc_usable_size(of_pvalloc) >= 8192);
    release(of_valloc);
    release(of_pvalloc);
    __libc_free(malloc(10));
    CHECK(__libc_mallopt(M_MXFAST, 64) == 1 && __libc_mallopt(M_MXFAST, -1) == 0);
    CHECK(__libc_mallinfo().arena == (int)mallinfo2().arena);
}

/* Libraries that are linked to today have no such name for new programs. */
#pragma weak cfree
static void test_cfree(void) {
    void (*old)(void *) = cfree ? cfree : (void (*)(void *))(uintptr_t)dlsym(RTLD_DEFAULT, "cfree");
    CHECK(old != NULL);
    void *block = malloc(100);
    old(block);
    old(NULL);
}

static void test_control(void) {
    struct mallinfo2 before = mallinfo2();
    void *large = malloc(10 << 20), *small[100];
    for (int i = 0; i < 100; i++)
        small[i] = malloc(1000);
    struct mallinfo2 after = mallinfo2(), own = quarry_mallinfo2();
    /* Mappings are as many as M_MMAP_MAX and M_MMAP_THRESHOLD make them: none, the large one, or all. */
    size_t maps = after.hblks - before.hblks, mapped = after.hblkhd - before.hblkhd,
           in_use = after.uordblks - before.uordblks;
    CHECK(maps == 0 || maps == 1 || maps == 101);
    CHECK(mapped >= (maps ? (size_t)10 << 20 : 0) + (maps == 101 ? (size_t)100 * 4096 : 0));
    CHECK(in_use + mapped >= (10 << 20) + 100 * 1000 && (maps == 101 || in_use >= 100 * 1000));
    CHECK(own.arena == after.arena && own.uordblks == after.uordblks);
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    CHECK((size_t)mallinfo().arena == after.arena);
    for (int i = 0; i < 100; i++)
        free(small[i]);
    free(large);
    CHECK(mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1 && mallopt(M_MXFAST, -1) == 0);
    CHECK(mallopt(12345, 1) == 1);
    int trimmed = malloc_trim(0);
    CHECK(trimmed == 0 || trimmed == 1);
    malloc_stats();
}

static void test_malloc_info(void) {
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    MUST(stream);
    CHECK(malloc_info(1, stream) == EINVAL && malloc_info(0, stream) == 0);
    fclose(stream);
    CHECK(strncmp(text, "<malloc version=\"1\">\n", 21) == 0);
    CHECK(length > 10 && strcmp(text + length - 10, "</malloc>\n") == 0);
    release(text);
}

/* What libc allocates for its callers. */
static void test_libc(void) {
    release(strdup("a string"));
    release(strndup("a string", 3));
    char *text = NULL, *line = NULL;
    size_t room = 0, lines = 0;
    CHECK(asprintf(&text, "%0*d", 5000, 7) == 5000);
    release(text);
    FILE *file = tmpfile();
    MUST(file);
    for (int i = 0; i < 1000; i++)
        fprintf(file, "%0*d\n", i + 1, i);
    rewind(file);
    while (getline(&line, &room, file) > 0)
        lines++;
    CHECK(lines == 1000 && room > 1000);
    release(line);
    fclose(file);
    DIR *folder = opendir("/");
    CHECK(folder && readdir(folder));
    closedir(folder);
    regex_t regex;
    CHECK(regcomp(&regex, "^(a|b)*c{2,5}[x-z]+$", REG_EXTENDED) == 0);
    CHECK(regexec(&regex, "ababccxyz", 0, NULL, 0) == 0);
    regfree(&regex);
    CHECK(setenv("QUARRY_FORMS", "1", 1) == 0 && unsetenv("QUARRY_FORMS") == 0);
}

enum { THREADS = 4, ROUNDS = 2000, KEPT = 50 };

static void *churn(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument;
    char *kept[KEPT] = {NULL};
    size_t sizes[KEPT] = {0};
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned slot = i * 13 % KEPT;
        if (kept[slot])
            CHECK(intact(kept[slot], sizes[slot], seed + slot));
        free(kept[slot]);
        sizes[slot] = (size_t)i * i * 37 % (i % 100 == 0 ? 400000 : 3000);
        kept[slot] = malloc(sizes[slot]);
        MUST(kept[slot]);
        fill(kept[slot], sizes[slot], seed + slot);
    }
    for (unsigned i = 0; i < KEPT; i++)
        free(kept[i]);
    return strdup("from a thread");
}

static void test_threads(void) {
    pthread_t thread[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&thread[i], NULL, churn, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *text = NULL;
        MUST(pthread_join(thread[i], &text) == 0);
        CHECK(strcmp(text, "from a thread") == 0);
        release(text);
    }
}

/* libc frees what strerror keeps for a thread after the thread's destructors, when its cache is left. */
static void *end_late(void *unused) {
    free(malloc(100));
    CHECK(strlen(strerror(99999)) > 0);
    return unused;
}

static void test_thread_ends(void) {
    struct quarry_stats before, after;
    quarry_stats(&before, sizeof before);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, end_late, NULL) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    quarry_stats(&after, sizeof after);
    CHECK(after.caches == before.caches);
}

static void test_fork(void) {
    char *block = malloc(5000);
    fill(block, 5000, 9);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        check_failures = 0;
        CHECK(intact(block, 5000, 9));
        release(block);
        churn(NULL);
        _exit(check_failures != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    release(block);
}

int main(void) {
    if (!quarry_version) {
        say("this program does not run on Quarry\n");
        return 4;
    }
    say("Quarry %s\n", quarry_version());
    test_allocation();
    test_alignment();
    test_aliases();
    test_cfree();
    test_control();
    test_malloc_info();
    test_libc();
    test_threads();
    test_thread_ends();
    test_fork();
    test_allocation();
    return finish();
}
