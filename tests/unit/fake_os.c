/* SPDX-License-Identifier: MIT
 *
 * fake_os: os.h for unit tests, with memory and failures by script (fake_os.h).
 *
 * FAKE_OS_TRACE=1 in the real environment prints each call.
 */
#include "fake_os.h"

#include "os.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPACE_BYTES ((size_t)2 << 40)
#define SPACE_HINT ((uintptr_t)1 << 44) /* where it is free addresses are the same in each run */
#define SPACE_ALIGN ((size_t)1 << 36)
#define BREAK_OFFSET (((size_t)84 << 20) + 5 * REAL_PAGE) /* not at a region or a larger page */
#define REAL_PAGE ((size_t)4096)
#define YIELDS_MAX 10000000u

struct fake_os fake_os = {
    .page_bytes = 4096,
    .break_limit = SIZE_MAX,
    .space_limit = SIZE_MAX,
    .processors = 4,
    .clock_ns = 1000000000,
    .clock_step_ns = 1000,
};

static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t space_start, space_end; /* the reservation */
static uintptr_t break_start, break_now;
static bool tracing;

static const char *const kind_names[FAKE_KINDS] = {
    "break_now", "break_grow", "break_shrink", "map",      "map_at", "unmap",
    "remap",     "purge",      "seal",         "populate", "huge",   "fork_page",
};

static void reserve_space(void) {
    void *space = mmap((void *)SPACE_HINT, SPACE_BYTES, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        perror("# fake_os: no address space");
        abort();
    }
    /* Huge pages would make one touched page cost 2 MiB. */
    madvise(space, SPACE_BYTES, MADV_NOHUGEPAGE);
    space_start = round_up((uintptr_t)space, SPACE_ALIGN);
    space_end = round_down((uintptr_t)space + SPACE_BYTES, SPACE_ALIGN);
    break_start = break_now = space_start + BREAK_OFFSET;
    tracing = getenv("FAKE_OS_TRACE") != NULL;
    const char *failing = getenv("FAKE_OS_FAIL");
    unsigned long first, count;
    if (failing && sscanf(failing, "%lu:%lu", &first, &count) == 2) {
        fake_os.fail_first = first;
        fake_os.fail_count = count;
    }
}

/* Begins a call: counts it, and tells whether the script wants it to fail.  Ends with leave(). */
static bool enter(enum fake_kind kind, uintptr_t address, size_t bytes) {
    pthread_mutex_lock(&fake_lock);
    if (!space_start)
        reserve_space();
    fake_os.count[kind]++;
    fake_os.calls++;
    bool fails = (fake_os.fail_kinds & FAKE_BIT(kind)) != 0 ||
                 (fake_os.calls >= fake_os.fail_first &&
                  fake_os.calls - fake_os.fail_first < fake_os.fail_count);
    fake_os.failures += fails;
    if (tracing)
        fprintf(stderr, "# %llu %s(0x%zx, 0x%zx)%s\n", (unsigned long long)fake_os.calls,
                kind_names[kind], (size_t)address, bytes, fails ? " fails" : "");
    return fails;
}

static void leave(void) {
    pthread_mutex_unlock(&fake_lock);
}

/* ---- memory ------------------------------------------------------------------------------------ */

/* Both work on the real pages that lie wholly or partly (commit), or only wholly (decommit), in the
 * range, for a break need not be a multiple of a page. */
static void commit(uintptr_t start, uintptr_t end) {
    start = round_down(start, REAL_PAGE);
    end = round_up(end, REAL_PAGE);
    if (mprotect((void *)start, end - start, PROT_READ | PROT_WRITE) != 0) {
        perror("# fake_os: mprotect");
        abort();
    }
}

static void decommit(uintptr_t start, uintptr_t end) {
    start = round_up(start, REAL_PAGE);
    end = round_up(end, REAL_PAGE);
    if (start >= end)
        return;
    if (madvise((void *)start, end - start, MADV_DONTNEED) != 0 ||
        mprotect((void *)start, end - start, PROT_NONE) != 0) {
        perror("# fake_os: decommit");
        abort();
    }
}

static bool in_space(uintptr_t start, size_t bytes) {
    return start >= space_start && start < space_end && bytes <= space_end - start;
}

static size_t owned_bytes(void) {
    return shadow_bytes(OWNER_BREAK) + shadow_bytes(OWNER_MAP);
}

static bool within_limit(size_t more_bytes) {
    size_t owned = owned_bytes();
    return more_bytes <= SPACE_BYTES && owned + more_bytes <= fake_os.space_limit;
}

/* False, and a violation, unless the range is in whole pages. */
static bool whole_pages(const char *what, uintptr_t start, size_t bytes) {
    bool good = bytes != 0 && start % fake_os.page_bytes == 0 && bytes % fake_os.page_bytes == 0;
    if (!good)
        shadow_violate(what, start, start + bytes);
    return good;
}

static bool may_lose(const char *what, uintptr_t start, size_t bytes, bool owned) {
    bool good = owned && !shadow_live_in(start, start + bytes);
    if (!good)
        shadow_violate(what, start, start + bytes);
    return good;
}

static void *give(uintptr_t start, size_t bytes) {
    commit(start, start + bytes);
    shadow_set(start, start + bytes, OWNER_MAP);
    return (void *)start;
}

static uintptr_t find_place(size_t bytes) {
    return within_limit(bytes)
               ? shadow_gap(space_start, space_end, bytes, max_size(fake_os.page_bytes, REAL_PAGE))
               : 0;
}

/* ---- the break --------------------------------------------------------------------------------- */

static bool move_break(intptr_t bytes, enum owner owner) {
    uintptr_t end = break_now + (uintptr_t)bytes;
    if (bytes > 0 && (end - break_start > fake_os.break_limit || end >= space_end ||
                      !shadow_all(break_now, round_up(end, REAL_PAGE), OWNER_NONE)))
        return false;
    if (bytes > 0) {
        commit(break_now, end);
        shadow_set(break_now, end, owner);
    } else {
        shadow_set(end, break_now, OWNER_NONE);
        decommit(end, break_now);
    }
    break_now = end;
    return true;
}

size_t os_page_bytes(void) {
    return fake_os.page_bytes;
}

void *os_break_now(void) {
    bool fails = enter(FAKE_BREAK_NOW, 0, 0);
    void *now = fails ? NULL : (void *)break_now;
    leave();
    return now;
}

void *os_break_grow(size_t bytes) {
    bool fails = enter(FAKE_BREAK_GROW, break_now, bytes);
    if (fake_os.foreign_sbrk_bytes)
        move_break((intptr_t)fake_os.foreign_sbrk_bytes, OWNER_FOREIGN);
    uintptr_t old = break_now;
    if (fails || bytes > SPACE_BYTES || !within_limit(bytes) ||
        !move_break((intptr_t)bytes, OWNER_BREAK))
        old = 0;
    leave();
    return (void *)old;
}

bool os_break_shrink(void *top, size_t bytes) {
    bool fails = enter(FAKE_BREAK_SHRINK, (uintptr_t)top, bytes);
    bool done = !fails && (uintptr_t)top == break_now;
    uintptr_t end = (uintptr_t)top - bytes;
    if (done)
        done = may_lose("break lowered below what was obtained", end, bytes,
                        shadow_all(end, break_now, OWNER_BREAK));
    if (done)
        move_break(-(intptr_t)bytes, OWNER_NONE);
    leave();
    return done;
}

/* ---- mappings ---------------------------------------------------------------------------------- */

void *os_map(size_t bytes) {
    bool fails = enter(FAKE_MAP, 0, bytes);
    void *got = NULL;
    if (whole_pages("mapped in parts of pages", 0, bytes) && !fails) {
        uintptr_t start = find_place(bytes);
        got = start ? give(start, bytes) : NULL;
    }
    leave();
    return got;
}

void *os_map_at(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_MAP_AT, start, bytes);
    void *got = NULL;
    if (whole_pages("mapped in parts of pages", start, bytes) && !fails && in_space(start, bytes) &&
        within_limit(bytes) && shadow_all(start, start + bytes, OWNER_NONE))
        got = give(start, bytes);
    leave();
    return got;
}

bool os_unmap(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_UNMAP, start, bytes);
    bool good = whole_pages("unmapped in parts of pages", start, bytes) &&
                may_lose("unmapped, and not mapped or live", start, bytes,
                         shadow_all(start, start + bytes, OWNER_MAP));
    if (good && !fails) {
        decommit(start, start + bytes);
        shadow_set(start, start + bytes, OWNER_NONE);
    }
    leave();
    return good && !fails;
}

/* Copies what is not zero, so that memory that was never touched stays so. */
static void copy_touched(uintptr_t to, uintptr_t from, size_t bytes) {
    static const char zero[REAL_PAGE];
    for (size_t at = 0; at < bytes; at += REAL_PAGE)
        if (memcmp((void *)(from + at), zero, REAL_PAGE) != 0)
            memcpy((void *)(to + at), (void *)(from + at), REAL_PAGE);
}

static uintptr_t remap(uintptr_t start, size_t old_bytes, size_t new_bytes, bool may_move) {
    uintptr_t end = start + old_bytes;
    if (new_bytes <= old_bytes) {
        decommit(start + new_bytes, end);
        shadow_set(start + new_bytes, end, OWNER_NONE);
        return start;
    }
    size_t more = new_bytes - old_bytes;
    if (!within_limit(more))
        return 0;
    if (in_space(end, more) && shadow_all(end, end + more, OWNER_NONE)) {
        give(end, more);
        return start;
    }
    uintptr_t target = may_move ? find_place(new_bytes) : 0;
    if (!target)
        return 0;
    give(target, new_bytes);
    copy_touched(target, start, old_bytes);
    decommit(start, end);
    shadow_set(start, end, OWNER_NONE);
    return target;
}

void *os_remap(void *address, size_t old_bytes, size_t new_bytes, bool may_move) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_REMAP, start, new_bytes);
    size_t lost = new_bytes < old_bytes ? old_bytes - new_bytes : 0;
    bool good = whole_pages("remapped in parts of pages", start, old_bytes) &&
                whole_pages("remapped in parts of pages", start, new_bytes) &&
                may_lose("remapped, and not mapped or live", start + old_bytes - lost, lost,
                         shadow_all(start, start + old_bytes, OWNER_MAP));
    uintptr_t got = good && !fails ? remap(start, old_bytes, new_bytes, may_move) : 0;
    leave();
    return (void *)got;
}

bool os_seal(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_SEAL, start, bytes);
    bool good = whole_pages("sealed in parts of pages", start, bytes) &&
                may_lose("sealed, and not mapped or live", start, bytes,
                         shadow_all(start, start + bytes, OWNER_MAP));
    if (good && !fails)
        decommit(start, start + bytes);
    leave();
    return good && !fails;
}

bool os_purge(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_PURGE, start, bytes);
    bool good = whole_pages("purged in parts of pages", start, bytes) &&
                may_lose("purged, and not the allocator's or live", start, bytes,
                         shadow_ours(start, start + bytes));
    bool done = good && !fails && madvise(address, bytes, MADV_DONTNEED) == 0;
    leave();
    return done;
}

void os_set_huge(bool wanted) {
    (void)wanted;
}

bool os_resident(void *address, size_t bytes, uint8_t *pages) {
    return mincore(address, bytes, pages) == 0;
}

bool os_populate(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_POPULATE, start, bytes);
    bool good = whole_pages("populated in parts of pages", start, bytes);
    if (good && !shadow_ours(start, start + bytes)) {
        shadow_violate("populated, and not the allocator's", start, start + bytes);
        good = false;
    }
    if (good && !fails)
        fake_os.populated_bytes += bytes;
    leave();
    return good && !fails;
}

#define HUGE_BYTES ((size_t)2 << 20)

bool os_make_huge(void *address, size_t bytes) {
    uintptr_t start = (uintptr_t)address;
    bool fails = enter(FAKE_HUGE, start, bytes);
    bool good = start % HUGE_BYTES == 0 && bytes == HUGE_BYTES && shadow_ours(start, start + bytes);
    if (!good)
        shadow_violate("made huge, and no huge page of the allocator's", start, start + bytes);
    if (good && !fails)
        fake_os.huge_bytes += bytes;
    leave();
    return good && !fails;
}

void os_make_code_resident(void) {
}

uint32_t *os_fork_page(void) {
    bool fails = enter(FAKE_FORK_PAGE, 0, fake_os.page_bytes);
    uintptr_t start = fails ? 0 : find_place(fake_os.page_bytes);
    if (start) {
        fake_os.fork_page = give(start, fake_os.page_bytes);
        *fake_os.fork_page = 1;
    }
    leave();
    return start ? fake_os.fork_page : NULL;
}

/* ---- what never fails -------------------------------------------------------------------------- */

void os_wait(uint32_t *word, uint32_t expected) {
    __atomic_fetch_add(&fake_os.waits, 1, __ATOMIC_RELAXED);
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
    errno = saved;
}

void os_wake(uint32_t *word, int count) {
    __atomic_fetch_add(&fake_os.wakes, 1, __ATOMIC_RELAXED);
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    errno = saved;
}

void os_yield(void) {
    if (__atomic_fetch_add(&fake_os.yields, 1, __ATOMIC_RELAXED) == YIELDS_MAX) {
        fprintf(stderr, "# fake_os: a loop that does not end\n");
        abort();
    }
    if (fake_os.on_yield)
        fake_os.on_yield();
    syscall(SYS_sched_yield);
}

/* A test with threads needs a true one. */
bool os_barrier(void) {
    if (fake_os.on_barrier)
        fake_os.on_barrier();
    if (fake_os.no_barrier)
        return false;
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
}

unsigned os_processors(void) {
    return fake_os.processors;
}

uint64_t os_clock_ns(void) {
    uint64_t step = fake_os.clock_step_ns;
    return __atomic_add_fetch(&fake_os.clock_ns, step, __ATOMIC_RELAXED);
}

/* The process works all the time. */
uint64_t os_cpu_ns(void) {
    return os_clock_ns() - fake_os.idle_ns;
}

uint64_t os_random(void) {
    return 0x0123456789abcdef;
}

const char *os_environment(const char *name, bool *ready) {
    size_t length = strlen(name);
    *ready = !fake_os.environment_missing;
    for (size_t i = 0; i < FAKE_VARIABLES && *ready; i++) {
        const char *entry = fake_os.environment[i];
        if (entry && strncmp(entry, name, length) == 0 && entry[length] == '=')
            return entry + length + 1;
    }
    return NULL;
}

bool os_environment_has(const char *prefix) {
    for (size_t i = 0; i < FAKE_VARIABLES && !fake_os.environment_missing; i++) {
        const char *entry = fake_os.environment[i];
        if (entry && strncmp(entry, prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

size_t os_read_file(const char *path, char *text, size_t bytes) {
    for (size_t i = 0; i < FAKE_FILES; i++)
        if (fake_os.file[i][0] && strcmp(fake_os.file[i][0], path) == 0) {
            size_t length = min_size(strlen(fake_os.file[i][1]), bytes);
            memcpy(text, fake_os.file[i][1], length);
            return length;
        }
    return 0;
}

void os_write_error(const char *text, size_t bytes) {
    if (write(STDERR_FILENO, text, bytes) < 0)
        abort();
}

void os_abort(void) {
    abort();
}

/* ---- for the tests ----------------------------------------------------------------------------- */

uintptr_t fake_break(void) {
    return break_now;
}

void fake_foreign_sbrk(intptr_t bytes) {
    pthread_mutex_lock(&fake_lock);
    move_break(bytes, OWNER_FOREIGN);
    pthread_mutex_unlock(&fake_lock);
}

bool fake_foreign_map(uintptr_t address, size_t bytes) {
    pthread_mutex_lock(&fake_lock);
    bool possible = in_space(address, bytes) && shadow_all(address, address + bytes, OWNER_NONE);
    if (possible)
        shadow_set(address, address + bytes, OWNER_FOREIGN);
    pthread_mutex_unlock(&fake_lock);
    return possible;
}

size_t fake_owned_bytes(void) {
    pthread_mutex_lock(&fake_lock);
    size_t bytes = owned_bytes();
    pthread_mutex_unlock(&fake_lock);
    return bytes;
}

size_t fake_resident_bytes(const void *start, size_t bytes) {
    unsigned char resident[256];
    size_t total = 0;
    for (size_t at = 0; at < bytes; at += sizeof resident * REAL_PAGE) {
        size_t part = min_size(bytes - at, sizeof resident * REAL_PAGE);
        if (mincore((char *)start + at, part, resident) != 0)
            abort();
        for (size_t i = 0; i < (part + REAL_PAGE - 1) / REAL_PAGE; i++)
            total += (resident[i] & 1) * REAL_PAGE;
    }
    return total;
}
