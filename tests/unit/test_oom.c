/* SPDX-License-Identifier: MIT
 *
 * test_oom.c: one fixed story of allocations of all kinds, played once to count its system calls,
 * and then again for each of them with that call failing, or all from it on for a while, or for good.
 *
 * runner: timeout=600
 *
 * Whatever fails, each operation gives a block or NULL with ENOMEM, every live block keeps its
 * content, and the heap is sound; when the failures end, everything is possible again, and what was
 * freed serves other sizes.  Each play is a process of its own, so that the calls of the heap's
 * initialisation fail too.  Rerun one of them (k, how many, variant) with
 *
 *   FAKE_OS_FAIL=K:COUNT FAKE_OS_TRACE=1 test_oom VARIANT
 */
#include "unit_support.h"

#include "api.h"
#include "cache.h"
#include "mapping.h"

#include <malloc.h>

enum { SLOTS = 600, AT_ONCE = 4 };

/* ---- in the process that plays ------------------------------------------------------------------- */

static struct block {
    unsigned char *start;
    size_t size;
    uint64_t seed;
} blocks[SLOTS];

static struct rng rng = {4711}; /* of patterns only: the story is always the same */
static uint64_t failures_seen;

/* After an operation during which a call has failed; not always where hundreds fail. */
static void look_closely(void) {
    static unsigned looks;
    must_hold(shadow_violation());
    if (fake_os.failures == failures_seen)
        return;
    failures_seen = fake_os.failures;
    if (++looks < 20 || looks % 16 == 0)
        must_be_sound();
}

static void begin(void) {
    errno = 0;
}

/* Blocks are filled at both ends only, so that a play costs little. */
enum { HEAD = 1024, TAIL = 64 };

static void fill(const struct block *block) {
    pattern_fill(block->start, min_size(block->size, HEAD), block->seed);
    if (block->size > HEAD + TAIL)
        pattern_fill(block->start + block->size - TAIL, TAIL, ~block->seed);
}

/* Whether a block that was filled with old_size bytes still holds them, if need be cut off. */
static void check(const struct block *block, size_t old_size) {
    size_t head = min_size(old_size, HEAD);
    must(pattern_intact(block->start, head, block->seed, min_size(head, block->size & ~(size_t)7)));
    if (old_size > HEAD + TAIL && block->size >= old_size)
        must(pattern_intact(block->start + old_size - TAIL, TAIL, ~block->seed, TAIL));
}

/* Every allocation ends here. */
static void keep(size_t slot, void *start, size_t size, size_t align) {
    must(start ? errno == 0 : errno == ENOMEM);
    must(is_aligned(start, align));
    look_closely();
    blocks[slot] = (struct block){start, size, rng_next(&rng)};
    if (!start)
        return;
    shadow_live_add(start, size);
    fill(&blocks[slot]);
}

static void release(size_t slot) {
    struct block *block = &blocks[slot];
    if (!block->start)
        return;
    check(block, block->size);
    shadow_live_remove(block->start);
    begin();
    api_free(block->start);
    must(errno == 0);
    look_closely();
    block->start = NULL;
}

static void allocate(size_t slot, size_t size) {
    release(slot);
    begin();
    keep(slot, api_malloc(size), size, 16);
}

static void allocate_zero(size_t slot, size_t size) {
    release(slot);
    begin();
    unsigned char *start = api_calloc(size, 1);
    must(!start || (all_zero(start, min_size(size, 64 * KIB)) && start[size - 1] == 0));
    keep(slot, start, size, 16);
}

static void allocate_aligned(size_t slot, size_t align, size_t size) {
    void *start = NULL;
    release(slot);
    begin();
    if (slot % 2) {
        start = api_memalign(align, size);
    } else {
        int error = api_posix_memalign(&start, align, size);
        must(errno == 0 || errno == ENOMEM);
        must(error == (start ? 0 : ENOMEM));
        errno = error;
    }
    keep(slot, start, size, align);
}

static void resize(size_t slot, size_t size) {
    struct block *block = &blocks[slot];
    if (!block->start) {
        allocate(slot, size);
        return;
    }
    shadow_live_remove(block->start);
    begin();
    unsigned char *start = api_realloc(block->start, size);
    must(start ? errno == 0 : errno == ENOMEM);
    if (start) {
        size_t old_size = block->size;
        block->start = start;
        block->size = size;
        check(block, old_size);
        keep(slot, start, size, 16);
    } else {
        check(block, block->size);
        shadow_live_add(block->start, block->size);
        look_closely();
    }
}

static void trim(size_t pad) {
    begin();
    api_malloc_trim(pad);
    must(errno == 0);
    look_closely();
}

/* Blocks of every kind, then holes, then other sizes in them; twice, the second time trimmed. */
static void tell_the_story(void) {
    static const size_t sizes[] = {1, 24, 100, 500, 1000, 3000, 9000, 16384};
    static const size_t large[] = {16385, 30000, 100000, 131071};
    static const size_t mapped[] = {128 * KIB, MIB + 1, 9 * MIB};
    for (size_t i = 0; i < 200; i++)
        allocate(i, sizes[i % 8]);
    for (size_t i = 0; i < 40; i++)
        (i % 2 ? allocate : allocate_zero)(200 + i, large[i % 4]);
    for (size_t i = 0; i < 9; i++)
        (i % 2 ? allocate : allocate_zero)(240 + i, mapped[i % 3]);
    for (size_t i = 0; i < 10; i++)
        allocate_aligned(250 + i, (size_t)32 << 2 * (i % 9), 50 << i);
    for (size_t i = 0; i < 240; i += 3)
        release(i);
    trim(64 * KIB);
    for (size_t i = 0; i < 200; i += 7)
        resize(i, 2 * sizes[i % 8] + 10);
    for (size_t i = 200; i < 240; i++)
        resize(i, i % 3 * 20000 + 17000); /* runs that grow, shrink and become others */
    resize(240, 5 * MIB);                 /* mappings that grow, move, shrink, turn small */
    resize(241, 300 * KIB);
    resize(242, MIB);
    resize(243, 100);
    resize(250, 200 * KIB);
    for (size_t i = 300; i < 400; i++)
        allocate(i, 132 * KIB); /* more mappings than their first table holds */
    api_mallopt(M_MMAP_MAX, 0);
    for (size_t i = 400; i < 440; i++)
        allocate(i, i * KIB); /* runs of any size */
    api_mallopt(M_MMAP_MAX, 65536);
    for (size_t i = 300; i < 440; i += 2)
        release(i);
    trim(0);
    for (size_t i = 440; i < SLOTS; i++)
        allocate(i, sizes[i % 8] + i);
}

/* With all of memory refused, half of what is free must be had in another size. */
static void use_what_is_free(void) {
    struct page_counts counts;
    static void *taken[10000];
    size_t count = 0, size = 50000, bytes = 0;
    unsigned of_variant = fake_os.fail_kinds;
    page_count(&counts);
    fake_os.fail_kinds |= FAKE_MEMORY;
    for (; bytes < (counts.dirty_bytes + counts.clean_bytes) / 2; bytes += size) {
        must((taken[count++] = api_malloc(size)) != NULL);
        size = size == 50000 ? 20000 : 50000;
    }
    while (count)
        api_free(taken[--count]);
    fake_os.fail_kinds = of_variant;
}

static void clean_up(void) {
    fake_os.fail_count = 0;
    must_be_sound();
    for (size_t i = 0; i < SLOTS; i++)
        if (blocks[i].start)
            check(&blocks[i], blocks[i].size);
    tell_the_story(); /* all of it is possible now */
    for (size_t i = 440; i < SLOTS; i++)
        must(blocks[i].start != NULL);
    for (size_t i = 0; i < SLOTS; i++)
        release(i);
    must(mapping_live() == 0);
    cache_flush();
    must(page_live_bytes() == 0);
    use_what_is_free();
    trim(0);
    must(page_live_bytes() == 0);
    must_be_sound();
    must_hold(page_map_matches_books());
}

struct variant {
    const char *name;
    size_t break_limit, page_bytes, foreign_sbrk_bytes;
    unsigned fail_kinds;
};

static const struct variant variants[] = {
    {"usual", SIZE_MAX, 4096, 0, 0},
    {"no-break", 0, 4096, 0, 0},
    {"far", 3 * MIB, 4096, 0, FAKE_BIT(FAKE_MAP_AT)},
    {"foreign", SIZE_MAX, 16384, 24, 0},
};

static void play(const struct variant *variant) {
    alarm(CHILD_LIMIT_SECONDS);
    fake_os.break_limit = variant->break_limit;
    fake_os.page_bytes = variant->page_bytes;
    fake_os.foreign_sbrk_bytes = variant->foreign_sbrk_bytes;
    fake_os.fail_kinds = variant->fail_kinds;
    tell_the_story();
    uint64_t calls = fake_os.calls;
    clean_up();
    printf("%llu\n", (unsigned long long)calls);
}

/* ---- in the process that directs ------------------------------------------------------------------ */

static char *number_text(char *text, size_t size, uint64_t first, uint64_t count) {
    snprintf(text, size, "%llu:%llu", (unsigned long long)first, (unsigned long long)count);
    return text;
}

static pid_t start_play(const struct variant *variant, uint64_t first, uint64_t count, int out) {
    char text[64];
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(out, STDOUT_FILENO);
        setenv("FAKE_OS_FAIL", number_text(text, sizeof text, first, count), 1);
        execl("/proc/self/exe", "test_oom", variant->name, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* The number of calls that the story makes when none fails. */
static uint64_t count_calls(const struct variant *variant) {
    int ends[2];
    char text[32] = "";
    assert_int_equal(pipe(ends), 0);
    pid_t pid = start_play(variant, 0, 0, ends[1]);
    close(ends[1]);
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    assert_int_equal(wait_for(pid), 0);
    return strtoull(text, NULL, 10);
}

struct playing {
    pid_t pid;
    uint64_t first;
};

/* Waits for one of the plays, and frees its place; whether it went well. */
static bool wait_for_one(struct playing *playing, const struct variant *variant, uint64_t count) {
    int status = 0;
    char text[64];
    pid_t pid = wait(&status);
    assert_true(pid > 0);
    for (size_t i = 0; i < AT_ONCE; i++) {
        if (playing[i].pid != pid)
            continue;
        playing[i].pid = 0;
        if (status != 0)
            printf("# status 0x%x: FAKE_OS_FAIL=%s test_oom %s\n", status,
                   number_text(text, sizeof text, playing[i].first, count), variant->name);
    }
    return status == 0;
}

static void play_all(const struct variant *variant, uint64_t count) {
    struct playing playing[AT_ONCE] = {{0, 0}};
    uint64_t calls = count_calls(variant), wrong = 0;
    size_t running = 0;
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(calls > 100);
    printf("# %s: %llu calls\n", variant->name, (unsigned long long)calls);
    for (uint64_t k = 1; k <= calls && wrong < 5; k++) {
        size_t place = 0;
        while (running == AT_ONCE) {
            wrong += !wait_for_one(playing, variant, count);
            running--;
        }
        while (playing[place].pid)
            place++;
        playing[place] = (struct playing){start_play(variant, k, count, nowhere), k};
        running++;
    }
    for (; running; running--)
        wrong += !wait_for_one(playing, variant, count);
    close(nowhere);
    assert_int_equal(wrong, 0);
}

/* The initial state of a test is its variant. */
static void one_call_fails(void **state) {
    play_all(*state, 1);
}

static void calls_fail_for_a_while(void **state) {
    play_all(*state, 20);
}

static void calls_fail_from_one_on(void **state) {
    play_all(*state, 1000000);
}

#define VARIANT_TEST(test, index, name) \
    { #test ": " name, test, NULL, NULL, (void *)(uintptr_t)&variants[index] }
#define VARIANT_TESTS(index, name)                                                                \
    VARIANT_TEST(one_call_fails, index, name), VARIANT_TEST(calls_fail_for_a_while, index, name), \
        VARIANT_TEST(calls_fail_from_one_on, index, name)

int main(int argc, char **argv) {
    for (size_t i = 0; argc == 2 && i < COUNT_OF(variants); i++) {
        if (strcmp(argv[1], variants[i].name) == 0) {
            play(&variants[i]);
            return 0;
        }
    }
    const struct CMUnitTest tests[] = {
        VARIANT_TESTS(0, "usual"),
        VARIANT_TESTS(1, "no-break"),
        VARIANT_TESTS(2, "far"),
        VARIANT_TESTS(3, "foreign"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
