/* SPDX-License-Identifier: MIT
 *
 * test_limit.c: what a limit admits, and the limit that is taken from the cgroup.
 */
#include "unit_support.h"

#include "api.h"
#include "limit.h"
#include "mapping.h"
#include "meta.h"

struct file {
    const char *path, *content;
};

static void set_files(const char *cgroup, struct file first, struct file second) {
    fake_os.file[0][0] = "/proc/self/cgroup";
    fake_os.file[0][1] = cgroup;
    fake_os.file[1][0] = first.path;
    fake_os.file[1][1] = first.content;
    fake_os.file[2][0] = second.path;
    fake_os.file[2][1] = second.content;
}

static const struct file nothing;

static void version_2_is_memory_max(void) {
    struct file own = {"/sys/fs/cgroup/a.slice/b/memory.max", "1600\n"};
    set_files("0::/a.slice/b\n", own, nothing);
    must(limit_of_cgroup() == 1500);
    struct file unlimited = {"/sys/fs/cgroup/a.slice/b/memory.max", "max\n"};
    set_files("0::/a.slice/b\n", unlimited, nothing);
    must(limit_of_cgroup() == LIMIT_NONE);
}

static void the_least_limit_above_counts(void) {
    struct file own = {"/sys/fs/cgroup/a/b/memory.max", "3200\n"};
    struct file above = {"/sys/fs/cgroup/a/memory.max", "1600\n"};
    struct file top = {"/sys/fs/cgroup/memory.max", "320\n"};
    set_files("0::/a/b\n", own, above);
    must(limit_of_cgroup() == 1500);
    set_files("0::/a/b\n", own, top);
    must(limit_of_cgroup() == 300);
    set_files("0::/somewhere/else\n", top, nothing);
    must(limit_of_cgroup() == 300);
}

static void version_1_is_the_memory_controllers(void) {
    struct file own = {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1600\n"};
    set_files("9:name=systemd:/x\n8:pids:/y\n4:memory:/x\n1:cpu,cpuacct:/z\n", own, nothing);
    must(limit_of_cgroup() == 1500);
    struct file unlimited = {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                             "9223372036854771712\n"};
    set_files("4:memory:/x\n", unlimited, nothing);
    must(limit_of_cgroup() == LIMIT_NONE);
}

static void what_cannot_be_read_is_no_limit(void) {
    static const char *const texts[] = {"",     "\n",    ":",     "0:\n",
                                        "::\n", "0::\n", "0::/x", "memory\n"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        set_files(texts[i], (struct file){"/sys/fs/cgroup/x/memory.max", "5"}, nothing);
        must(limit_of_cgroup() == LIMIT_NONE);
    }
    static const char *const numbers[] = {"", "x", "-1", "99999999999999999999999"};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        set_files("0::/x\n", (struct file){"/sys/fs/cgroup/x/memory.max", numbers[i]}, nothing);
        must(limit_of_cgroup() == LIMIT_NONE);
    }
    char long_name[1200] = "0::/";
    memset(long_name + 4, 'x', 1100);
    long_name[1104] = '\n';
    set_files(long_name, nothing, nothing);
    must(limit_of_cgroup() == LIMIT_NONE);
}

/* ---- what it admits ------------------------------------------------------------------------------ */

/* Leaves 576 KiB dirty, and a limit that is room bytes above what is held. */
static size_t leave_dirty(size_t room) {
    void *block[6];
    for (size_t i = 0; i < COUNT_OF(block); i++)
        must((block[i] = api_malloc(96 * KIB)) != NULL);
    for (size_t i = 0; i < COUNT_OF(block); i++)
        api_free(block[i]);
    size_t pages = page_live_bytes() + page_dirty_bytes();
    must(page_dirty_bytes() == 576 * KIB);
    limit_set(pages + pages / PAGE_BYTES * 75 + mapping_live_bytes() + meta_mapped_bytes() + room);
    return page_dirty_bytes();
}

static void below_it_nothing_is_given_back(void) {
    size_t dirty = leave_dirty(300 * KIB);
    must(limit_admits(300 * KIB) && page_dirty_bytes() == dirty);
}

static void above_it_goes_back_what_is_missing(void) {
    size_t dirty = leave_dirty(100 * KIB);
    must(limit_admits(300 * KIB));
    must(page_dirty_bytes() <= dirty - 190 * KIB && page_dirty_bytes() >= dirty - 300 * KIB);
    must_be_sound();
}

static void what_cannot_fit_gives_nothing_back(void) {
    size_t dirty = leave_dirty(0);
    must(!limit_admits(2 * MIB) && page_dirty_bytes() == dirty);
    must(!limit_admits(SIZE_MAX) && page_dirty_bytes() == dirty);
}

static void each_failure_counts_once(void) {
    leave_dirty(100 * KIB);
    must(limit_refusals() == 0);
    must(api_malloc(20 * MIB) == NULL && limit_refusals() == 1);
    void *block = api_malloc(100 * KIB);
    must(block && limit_refusals() == 1);
    must(api_realloc(block, 30 * MIB) == NULL && limit_refusals() == 2);
    must(api_memalign(1 << 20, 20 * MIB) == NULL && limit_refusals() == 3);
    must(api_malloc((size_t)1 << 50) == NULL && limit_refusals() == 4);
    limit_set(LIMIT_NONE);
    must(api_malloc((size_t)1 << 60) == NULL && limit_refusals() == 4);
}

/* Also where it goes to a place with room, as one does that has grown before. */
static void a_run_that_moves_to_grow_is_held_twice(void) {
    char *block = api_malloc(80 * KIB);
    must(block && api_malloc(20 * KIB)); /* behind it */
    char *moved = api_realloc(block, 84 * KIB);
    must(moved && moved != block && api_malloc(100 * KIB)); /* too long for where it was */
    memset(moved, 0x33, 84 * KIB);
    size_t held = limit_held_bytes();
    limit_set(held - page_dirty_bytes() + 50 * KIB); /* what is dirty can go */
    must(api_realloc(moved, 100 * KIB) == NULL && limit_refusals() == 1);
    limit_set(held + 150 * KIB);
    block = api_realloc(moved, 100 * KIB);
    must(block && block != moved && block[0] == 0x33 && block[84 * KIB - 1] == 0x33);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(version_2_is_memory_max),
        body_test(the_least_limit_above_counts),
        body_test(version_1_is_the_memory_controllers),
        body_test(what_cannot_be_read_is_no_limit),
        body_test(below_it_nothing_is_given_back),
        body_test(above_it_goes_back_what_is_missing),
        body_test(what_cannot_fit_gives_nothing_back),
        body_test(each_failure_counts_once),
        body_test(a_run_that_moves_to_grow_is_held_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
