/* SPDX-License-Identifier: MIT
 *
 * Errors made on purpose, each in a child of its own, and what the hardened heap says to them.  Which
 * mode is on is for the caller to set.
 *
 * usage: harden canary        writes beyond blocks are found, and told, however the block was obtained
 *        harden sizes         with canaries the size of a block is what was asked for
 *        harden quarantine    late writes, second frees, no reuse; the limit is 1M
 *        harden switched      the same where mallopt sets and ends it
 *        harden filled BYTE   freed memory is filled
 *        harden guard FROM    the first byte beyond a block faults
 *        harden many          more blocks than there may be guards
 *        harden worn          blocks that wait leave guards to new ones; there may be 100
 *        harden spared        a block that was written beyond is left alone where nothing aborts
 */
#include "self_check.h"

#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { SET_QUARANTINE = -1008, MIB = 1 << 20, GRAIN = 16 };

extern void free_sized(void *block, size_t size) __attribute__((weak));
extern void free_aligned_sized(void *block, size_t align, size_t size) __attribute__((weak));

static size_t page;

/* ---- a child that does something wrong ---- */

static struct {
    char *block;
    size_t size, more;
    int status;
    char text[256];
} scene;

static void say_where(int signal, siginfo_t *info, void *context) {
    char text[32];
    (void)context;
    int length = snprintf(text, sizeof text, "%p", info->si_addr);
    if (write(STDERR_FILENO, text, (size_t)length) != length)
        _exit(3);
    _exit(128 + signal);
}

static void in_child(void (*act)(void)) {
    int ends[2];
    MUST(pipe(ends) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = say_where, .sa_flags = SA_SIGINFO};
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(ends[1], STDERR_FILENO);
        sigaction(SIGSEGV, &action, NULL);
        act();
        _exit(0);
    }
    close(ends[1]);
    memset(scene.text, 0, sizeof scene.text);
    size_t length = 0;
    ssize_t got;
    while ((got = read(ends[0], scene.text + length, sizeof scene.text - 1 - length)) > 0)
        length += (size_t)got;
    close(ends[0]);
    MUST(waitpid(child, &scene.status, 0) == child);
}

static int aborted_with(const char *function, const char *reason) {
    char line[256];
    snprintf(line, sizeof line, "quarry: %s(%p): %s\n", function, (void *)scene.block, reason);
    if (WIFSIGNALED(scene.status) && WTERMSIG(scene.status) == SIGABRT &&
        strcmp(line, scene.text) == 0)
        return 1;
    say("block of %zu, %zu more: status %#x, '%s' is not '%s'\n", scene.size, scene.more,
        (unsigned)scene.status, scene.text, line);
    return 0;
}

static int faulted_at(const char *address) {
    char text[32];
    snprintf(text, sizeof text, "%p", (const void *)address);
    if (WIFEXITED(scene.status) && WEXITSTATUS(scene.status) == 128 + SIGSEGV &&
        strcmp(text, scene.text) == 0)
        return 1;
    say("block of %zu at %p: status %#x, '%s' is not '%s'\n", scene.size, (void *)scene.block,
        (unsigned)scene.status, scene.text, text);
    return 0;
}

/* ---- ways to a block ---- */

static void *by_malloc(size_t size) {
    return malloc(size);
}

static void *by_calloc(size_t size) {
    char *block = calloc(size, 1);
    CHECK(block && all_bytes(block, size, 0));
    return block;
}

static void *aligned(size_t align, size_t size) {
    void *block = memalign(align, size);
    CHECK(block && (uintptr_t)block % align == 0);
    return block;
}

static void *by_memalign_64(size_t size) {
    return aligned(64, size);
}

static void *by_memalign_4096(size_t size) {
    return aligned(4096, size);
}

static void *by_memalign_65536(size_t size) {
    return aligned(65536, size);
}

static void *resized(size_t from, size_t size) {
    char *block = malloc(from);
    size_t kept = from < size ? from : size;
    fill(block, from, 7);
    block = realloc(block, size ? size : 1);
    CHECK(block && intact(block, kept, 7));
    return block;
}

static void *by_growing(size_t size) {
    return resized(size / 3 + 1, size);
}

static void *by_shrinking(size_t size) {
    return resized(5 * size + 300, size);
}

static void *in_place(size_t size) {
    return resized(size + 1, size);
}

static void *(*const ways[])(size_t) = {by_malloc,        by_calloc,         by_memalign_64,
                                        by_memalign_4096, by_memalign_65536, by_growing,
                                        by_shrinking,     in_place};

static const size_t sizes[] = {0,     1,     8,     15,    16,     17,     24,     100,    112,
                               128,   1000,  1024,  4080,  4096,   4097,   8000,   16368,  16384,
                               16385, 20000, 65536, 99999, 131056, 131072, 200000, 1048576};

#define EACH(i, of) for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)

/* ---- canary ---- */

static void write_beyond(void) {
    for (size_t i = 0; i < scene.more; i++)
        scene.block[scene.size + i] = (char)~scene.block[scene.size + i];
}

static void then_free(void) {
    write_beyond();
    free(scene.block);
}

static void then_resize(void) {
    write_beyond();
    (void)!realloc(scene.block, scene.size / 2 + 1);
}

static void then_free_sized(void) {
    write_beyond();
    free_sized(scene.block, scene.size);
}

static void terminate_beyond(void) {
    scene.block[scene.size] = 0;
    free(scene.block);
}

static void write_the_last(void) {
    memset(scene.block, 0, scene.size);
    free(scene.block);
}

/* At a guard nothing is found that it has not prevented. */
static void expect_overrun(void (*act)(void), const char *function) {
    char reason[64];
    uintptr_t end = (uintptr_t)scene.block + scene.size;
    in_child(act);
    if (getenv("QUARRY_GUARD") && end + scene.more > (end + page - 1) / page * page) {
        CHECK(WIFEXITED(scene.status) && WEXITSTATUS(scene.status) == 128 + SIGSEGV);
        return;
    }
    snprintf(reason, sizeof reason, "written beyond its %zu bytes", scene.size);
    CHECK(aborted_with(function, reason));
}

static void check_block(void) {
    scene.more = 1;
    expect_overrun(then_free, "free");
    expect_overrun(then_resize, "realloc");
    expect_overrun(then_free_sized, "free_sized");
    expect_overrun(terminate_beyond, "free");
    scene.more = 8;
    expect_overrun(then_free, "free");
    in_child(write_the_last);
    CHECK(scene.status == 0 && !scene.text[0]);
}

static void run_canary(void) {
    EACH(i, sizes)
    EACH(way, ways) {
        scene.size = sizes[i];
        scene.block = ways[way](scene.size);
        MUST(scene.block);
        if (scene.size == 0 && malloc_usable_size(scene.block) != 0)
            scene.size = 1; /* realloc, and guards */
        check_block();
        free(scene.block);
    }
    scene.block = malloc(scene.size = 40);
    scene.more = 24;
    in_child(then_free);
    CHECK(getenv("QUARRY_GUARD") || aborted_with("free", "written beyond its end"));
}

static void free_with_another_size(void) {
    free_sized(scene.block, scene.size + 1);
}

static void run_sizes(void) {
    EACH(i, sizes)
    EACH(way, ways) {
        size_t size = sizes[i] ? sizes[i] : 1;
        scene.block = ways[way](size);
        CHECK(malloc_usable_size(scene.block) == size);
        free_sized(scene.block, size);
    }
    free_sized(malloc(0), 0); /* at a guard it has a byte */
    free_aligned_sized(aligned_alloc(64, 0), 64, 0);
    scene.block = malloc(scene.size = 100);
    in_child(free_with_another_size);
    CHECK(aborted_with("free_sized", "size 101 does not fit a block of 100 bytes"));
}

/* ---- quarantine ---- */

static void write_late(void) {
    free(scene.block);
    scene.block[scene.size / 2] ^= 1;
    malloc_trim(0);
}

static void write_late_and_go_on(void) {
    free(scene.block);
    scene.block[scene.size - 1] ^= 1;
    for (int i = 0; i < 200; i++)
        free(malloc(10000));
}

static void free_twice(void) {
    free(scene.block);
    free(malloc(50));
    free(scene.block);
}

static void resize_freed(void) {
    free(scene.block);
    (void)!realloc(scene.block, 5);
}

static void free_and_trim(void) {
    free(scene.block);
    malloc_trim(0);
}

static void check_late(void) {
    in_child(write_late);
    CHECK(aborted_with("free", "written after it was freed"));
    in_child(write_late_and_go_on);
    CHECK(aborted_with("free", "written after it was freed"));
    in_child(free_twice);
    CHECK(aborted_with("free", "already free"));
    in_child(resize_freed);
    CHECK(aborted_with("realloc", "already free"));
    in_child(free_and_trim);
    CHECK(scene.status == 0 && !scene.text[0]);
}

/* How many blocks of a size are allocated and freed before an address comes back. */
static size_t until_reuse(size_t size, size_t most) {
    void *first = malloc(size);
    free(first);
    for (size_t i = 1; i < most; i++) {
        void *block = malloc(size);
        free(block);
        if (block == first)
            return i;
    }
    return most;
}

static void check_reuse(void) {
    size_t count = until_reuse(1000, 5000); /* blocks of 1000 take 1024 or 1040 */
    CHECK(count > MIB / 1100 && count <= MIB / 1000 + 2);
    free(malloc(2 * MIB));              /* such blocks are no mappings from then on */
    CHECK(until_reuse(2 * MIB, 5) < 5); /* too large to wait */
}

static void check_figures(void) {
    malloc_trim(0);
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < 50; i++)
        free(malloc(10000));
    CHECK(mallinfo2().uordblks >= before + 500000);
    malloc_trim(0);
    CHECK(mallinfo2().uordblks < before + 100000);
}

static void touch_freed(void) {
    free(scene.block);
    scene.block[scene.size / 2] = 1;
}

static void run_quarantine(void) {
    static const size_t late[] = {1, 16, 100, 1000, 4096, 16384, 20000, 99999};
    EACH(i, late) {
        scene.block = malloc(scene.size = late[i]);
        check_late();
        free(scene.block);
    }
    scene.block = malloc(scene.size = 300000); /* a mapping */
    in_child(touch_freed);
    CHECK(faulted_at(scene.block + scene.size / 2));
    in_child(free_twice);
    CHECK(aborted_with("free", "already free"));
    check_reuse();
    check_figures();
}

static void run_switched(void) {
    void *before = malloc(100);
    CHECK(until_reuse(1000, 5000) < 300);
    CHECK(mallopt(SET_QUARANTINE, MIB) == 1);
    free(before);
    scene.block = malloc(scene.size = 100);
    check_late();
    check_reuse();
    CHECK(mallopt(SET_QUARANTINE, 0) == 1);
    CHECK(until_reuse(1000, 5000) < 300);
}

/* ---- fills ---- */

/* The neighbours keep the memory in the heap. */
static void run_filled(int byte) {
    EACH(i, sizes) {
        if (sizes[i] > 100000)
            continue;
        char *block = malloc(sizes[i]), *behind = malloc(sizes[i]);
        memset(block, 0x77, sizes[i]);
        char *moved = realloc(block, 3 * sizes[i] + 200), *further = malloc(3 * sizes[i] + 200);
        CHECK(all_bytes(moved, sizes[i], 0x77));
        CHECK(moved == block || all_bytes(block, sizes[i], byte));
        memset(moved, 0x77, 3 * sizes[i] + 200);
        free(moved);
        if (3 * sizes[i] + 200 < 100000)
            CHECK(all_bytes(moved, 3 * sizes[i] + 200, byte));
        free(behind);
        free(further);
    }
}

/* ---- guard ---- */

static void touch_beyond(void) {
    volatile char *last = scene.block + scene.size - 1;
    *last = *last;
    last[1 + scene.more] = 1;
}

static void check_guard(size_t align) {
    uintptr_t end = (uintptr_t)scene.block + scene.size;
    scene.more = (align - scene.size % align) % align;
    CHECK((end + scene.more) % page == 0);
    in_child(touch_beyond);
    CHECK(faulted_at(scene.block + scene.size + scene.more));
    in_child(touch_freed);
    CHECK(faulted_at(scene.block + scene.size / 2));
    in_child(free_twice);
    CHECK(WIFSIGNALED(scene.status) && WTERMSIG(scene.status) == SIGABRT);
}

static void run_guard(size_t from) {
    EACH(i, sizes)
    EACH(way, ways) {
        scene.size = sizes[i] ? sizes[i] : 1;
        size_t mapped = mallinfo2().hblks;
        scene.block = ways[way](scene.size);
        bool more = mallinfo2().hblks > mapped; /* others may leave the quarantine */
        CHECK(more == (scene.size >= from) || getenv("QUARRY_QUARANTINE"));
        size_t align = ways[way] == by_memalign_64     ? 64
                       : ways[way] == by_memalign_4096 ? 4096
                                                       : GRAIN;
        if (scene.size >= from && ways[way] != by_memalign_65536)
            check_guard(align);
        free(scene.block);
    }
}

static void run_many(void) {
    enum { COUNT = 40000 };
    static char *blocks[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        blocks[i] = malloc(1 + i % 200);
        MUST(blocks[i]);
        fill(blocks[i], 1 + i % 200, i);
    }
    say("guarded=%zu\n", mallinfo2().hblks);
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK(intact(blocks[i], 1 + i % 200, i));
        free(blocks[i]);
    }
}

static void run_worn(void) {
    for (int i = 0; i < 300; i++)
        free(malloc(100));
    size_t waiting = mallinfo2().hblks;
    CHECK(waiting == 50);
    CHECK(malloc(100) && mallinfo2().hblks == waiting + 1);
}

/* ---- no abort ---- */

static void run_spared(void) {
    scene.block = malloc(scene.size = 40);
    scene.more = 1;
    write_beyond();
    free(scene.block);
    CHECK(realloc(scene.block, 1000) == NULL);
    write_beyond(); /* as it was */
    free(scene.block);
    say("%p\n", (void *)scene.block);
}

int main(int argc, char **argv) {
    MUST(argc >= 2 && free_sized);
    page = (size_t)sysconf(_SC_PAGESIZE);
    if (strcmp(argv[1], "canary") == 0)
        run_canary();
    else if (strcmp(argv[1], "sizes") == 0)
        run_sizes();
    else if (strcmp(argv[1], "quarantine") == 0)
        run_quarantine();
    else if (strcmp(argv[1], "switched") == 0)
        run_switched();
    else if (strcmp(argv[1], "filled") == 0)
        run_filled(atoi(argv[2]));
    else if (strcmp(argv[1], "guard") == 0)
        run_guard((size_t)atol(argv[2]));
    else if (strcmp(argv[1], "many") == 0)
        run_many();
    else if (strcmp(argv[1], "worn") == 0)
        run_worn();
    else if (strcmp(argv[1], "spared") == 0)
        run_spared();
    else
        MUST(!"a known scenario");
    return finish();
}
