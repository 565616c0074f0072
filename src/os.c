/* SPDX-License-Identifier: MIT
 *
 * os: the system-call seam.
 *
 * PURPOSE  Keep every dependency on the kernel and on libc's wrappers in one file.
 *
 * WHY NOT  libc's mmap, munmap, madvise: programs interpose them, and the interposers call malloc.
 *          libc's open, read, getrandom, nanosleep, write: they are cancellation points, and
 *          sandboxes forbid some.  Only syscall() is used, which is neither.
 *          A raw brk: libc keeps its own idea of the break and adds to it; a break moved behind its
 *          back makes the program's next sbrk cut into the heap.  So the break moves through sbrk.
 *
 * FAILURE  A failed call returns NULL or false; errno is what it was.
 */
#include "os.h"
#include "os_internal.h"

#include "vdso.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum {
    NO_ADVICE = -1,         /* of madvise; no kernel knows it */
    CLOCK_NUMBER_SHIFT = 3, /* a thread's clock: its number, inverted, and three bits */
};

/* Emulators (qemu's) say yes to advice that they do not know.  Such a yes counts for nothing; but whether
 * pages are purged can be seen. */
static bool any_advice_is_taken, purges_nothing;

static bool madvise_says_yes(const void *address, size_t bytes, int advice) {
    return call(SYS_madvise, (long)address, (long)bytes, advice, 0, 0, 0) == 0;
}

static bool advise(const void *address, size_t bytes, int advice) {
    return madvise_says_yes(address, bytes, advice) && !any_advice_is_taken;
}

size_t os_page_bytes(void) {
    static size_t bytes;
    size_t known = LOAD_RELAXED(bytes);
    if (known == 0) {
        known = getauxval(AT_PAGESZ);
        if (!is_power_of_two(known) || known < PAGE_BYTES)
            known = PAGE_BYTES;
        STORE_RELAXED(bytes, known);
    }
    return known;
}

#define HUGE_MIN ((size_t)1 << 20)

static bool huge_wanted;

void os_set_huge(bool wanted) {
    STORE_RELAXED(huge_wanted, wanted);
}

static void advise_huge(uintptr_t start, size_t bytes) {
    uintptr_t first = round_up(start, os_page_bytes());
    if (LOAD_RELAXED(huge_wanted) && first < start + bytes)
        (void)advise((void *)first, start + bytes - first, MADV_HUGEPAGE);
}

static void *move_break(intptr_t bytes) {
    int saved = errno;
    void *old = sbrk(bytes);
    errno = saved;
    return old == (void *)-1 ? NULL : old;
}

/* fork copies the kernel's break before it stops the other threads, and the memory after.  Where one
 * of them lowered the break in between, the child's break lies above memory that it does not have,
 * and raising libc's would give just that memory out.  So libc's is first raised to the kernel's. */
void *os_break_now(void) {
    void *now = move_break(0);
    intptr_t missing = call(SYS_brk, 0, 0, 0, 0, 0, 0) - (intptr_t)now;
    if (now && missing > 0) {
        move_break(missing);
        now = move_break(0);
    }
    return now;
}

void *os_break_grow(size_t bytes) {
    void *old = bytes > PTRDIFF_MAX ? NULL : move_break((intptr_t)bytes);
    if (old)
        advise_huge((uintptr_t)old, bytes);
    return old;
}

bool os_break_shrink(void *top, size_t bytes) {
    if (move_break(0) != top)
        return false;
    return move_break(-(intptr_t)bytes) != NULL;
}

/* ThreadSanitizer does not see these calls.  The kernel orders what was done with an address before it was
 * unmapped before what is done with it when it is mapped again. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
static char addresses;
#define NOTE_MAPPED() __tsan_acquire(&addresses)
#define NOTE_UNMAPPING() __tsan_release(&addresses)
#else
#define NOTE_MAPPED() ((void)0)
#define NOTE_UNMAPPING() ((void)0)
#endif

static void *map(void *hint, size_t bytes, int flags) {
    long at = call(SYS_mmap, (long)hint, (long)bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (at == -1)
        return NULL;
    NOTE_MAPPED();
    if (bytes >= HUGE_MIN)
        advise_huge((uintptr_t)at, bytes);
    return (void *)at;
}

void *os_map(size_t bytes) {
    return map(NULL, bytes, 0);
}

void *os_map_at(void *address, size_t bytes) {
    void *got = map(address, bytes, MAP_FIXED_NOREPLACE);
    if (got && got != address) {
        os_unmap(got, bytes); /* a kernel or emulator that does not know the flag */
        got = NULL;
    }
    return got;
}

bool os_unmap(void *address, size_t bytes) {
    NOTE_UNMAPPING();
    return call(SYS_munmap, (long)address, (long)bytes, 0, 0, 0, 0) == 0;
}

void *os_remap(void *address, size_t old_bytes, size_t new_bytes, bool may_move) {
    NOTE_UNMAPPING(); /* where it moves */
    long at = call(SYS_mremap, (long)address, (long)old_bytes, (long)new_bytes,
                   may_move ? MREMAP_MAYMOVE : 0, 0, 0);
    if (at == -1)
        return NULL;
    NOTE_MAPPED();
    if (new_bytes >= HUGE_MIN && old_bytes < HUGE_MIN)
        advise_huge((uintptr_t)at, new_bytes);
    return (void *)at;
}

bool os_seal(void *address, size_t bytes) {
    return call(SYS_mmap, (long)address, (long)bytes, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != -1;
}

bool os_set_writable(const void *address, size_t bytes, bool writable) {
    uintptr_t start = round_down((uintptr_t)address, os_page_bytes());
    uintptr_t end = round_up((uintptr_t)address + bytes, os_page_bytes());
    return call(SYS_mprotect, (long)start, (long)(end - start),
                PROT_READ | (writable ? PROT_WRITE : 0), 0, 0, 0) == 0;
}

static uint32_t *fork_page;

static bool is_locked(void *page) {
    return call(SYS_msync, (long)page, (long)os_page_bytes(), MS_ASYNC | MS_INVALIDATE, 0, 0, 0) !=
           0;
}

/* mlockall locks what there is, or what there will be, or both. */
static bool all_is_locked(void) {
    void *fresh = fork_page && !is_locked(fork_page) ? os_map(os_page_bytes()) : NULL;
    bool locked = !fresh || is_locked(fresh);
    if (fresh)
        os_unmap(fresh, os_page_bytes());
    return locked;
}

/* Locked pages that are free were a block that somebody did not unlock; but who locks everything wants no faults. */
bool os_purge(void *address, size_t bytes) {
    if (madvise_says_yes(address, bytes, MADV_DONTNEED))
        return !purges_nothing;
    return !all_is_locked() && advise(address, bytes, MADV_DONTNEED_LOCKED);
}

bool os_resident(void *address, size_t bytes, uint8_t *pages) {
    return call(SYS_mincore, (long)address, (long)bytes, (long)pages, 0, 0, 0) == 0;
}

/* The kernel makes a huge page of a stretch of which at least one page is there. */
bool os_make_huge(void *address, size_t bytes) {
    *(volatile char *)address = 0;
    return advise(address, bytes, MADV_COLLAPSE);
}

bool os_populate(void *address, size_t bytes) {
    return advise(address, bytes, MADV_POPULATE_WRITE);
}

/* The head of the file that this is linked into, by the linker. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

void os_make_code_resident(void) {
    uintptr_t base = (uintptr_t)&__ehdr_start, step = os_page_bytes();
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(base + __ehdr_start.e_phoff), *first = NULL;
    for (unsigned i = 0; i < __ehdr_start.e_phnum; i++, segment++) {
        if (segment->p_type != PT_LOAD)
            continue;
        first = first ? first : segment; /* the one that begins with the head */
        uintptr_t start = base + (segment->p_vaddr - first->p_vaddr);
        uintptr_t end = round_up(start + segment->p_filesz, step);
        start = round_down(start, step);
        if (!(segment->p_flags & PF_W) && !advise((void *)start, end - start, MADV_POPULATE_READ))
            for (uintptr_t at = start; at < end; at += step) /* before 5.14 */
                (void)*(const volatile char *)at;
    }
}

static void look_for_emulator(volatile uint32_t *page) {
    any_advice_is_taken = madvise_says_yes((void *)page, os_page_bytes(), NO_ADVICE);
    if (!any_advice_is_taken)
        return;
    *page = 1;
    purges_nothing = !os_purge((void *)page, os_page_bytes()) || *page != 0;
}

uint32_t *os_fork_page(void) {
    uint32_t *page = os_map(os_page_bytes());
    if (!page)
        return NULL;
    look_for_emulator(page);
    if (!advise(page, os_page_bytes(), MADV_WIPEONFORK)) {
        os_unmap(page, os_page_bytes());
        return NULL;
    }
    *page = 1;
    fork_page = page;
    return page;
}

void os_wait(uint32_t *word, uint32_t expected) {
    call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, (long)expected, 0, 0, 0);
}

void os_wake(uint32_t *word, int count) {
    call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

void os_yield(void) {
    call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

/* The kernel wants to be told once by each program. */
bool os_barrier(void) {
    static const long barrier = MEMBARRIER_CMD_PRIVATE_EXPEDITED;
    static const long announce = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    return call(SYS_membarrier, barrier, 0, 0, 0, 0, 0) == 0 ||
           (call(SYS_membarrier, announce, 0, 0, 0, 0, 0) == 0 &&
            call(SYS_membarrier, barrier, 0, 0, 0, 0, 0) == 0);
}

unsigned os_processors(void) {
    uint64_t mask[1024 / 64];
    long bytes = call(SYS_sched_getaffinity, os_process(), sizeof mask, (long)mask, 0, 0, 0);
    unsigned count = 0;
    for (size_t i = 0; i < sizeof mask / sizeof *mask && (long)(i * sizeof *mask) < bytes; i++)
        count += (unsigned)__builtin_popcountll(mask[i]);
    return count;
}

static uint64_t nanoseconds(const struct timespec *time) {
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

static int clock_by_call(clockid_t clock, struct timespec *now) {
    return (int)call(SYS_clock_gettime, clock, (long)now, 0, 0, 0, 0);
}

uint64_t os_clock_ns(void) {
    static vdso_clock *read_clock;
    vdso_clock *known = LOAD_RELAXED(read_clock);
    if (UNLIKELY(!known)) {
        known = vdso_clock_gettime();
        known = known ? known : clock_by_call;
        STORE_RELAXED(read_clock, known);
    }
    struct timespec now = {0, 0};
    known(CLOCK_MONOTONIC_COARSE, &now);
    return nanoseconds(&now);
}

/* This one may be refused, and free has to leave errno alone. */
uint64_t os_cpu_ns(void) {
    struct timespec now = {0, 0};
    clock_by_call(CLOCK_PROCESS_CPUTIME_ID, &now);
    return nanoseconds(&now);
}

uint64_t os_random(void) {
    uint64_t number = 0;
    long got = call(SYS_getrandom, (long)&number, sizeof number, GRND_NONBLOCK, 0, 0, 0);
    if (got != sizeof number)
        number = (os_clock_ns() ^ (uintptr_t)&number) * 0x9e3779b97f4a7c15u;
    return number;
}

const char *os_environment(const char *name, bool *ready) {
    *ready = environ != NULL;
    size_t length = strlen(name);
    for (char **entry = environ; entry && *entry; entry++)
        if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
            return getauxval(AT_SECURE) ? NULL : *entry + length + 1;
    return NULL;
}

bool os_environment_has(const char *prefix) {
    size_t length = strlen(prefix);
    for (char **entry = environ; entry && *entry; entry++)
        if (**entry == *prefix && strncmp(*entry, prefix, length) == 0)
            return true;
    return false;
}

size_t os_read_file(const char *path, char *text, size_t bytes) {
    long file = call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (file < 0)
        return 0;
    long length = call(SYS_read, file, (long)text, (long)bytes, 0, 0, 0);
    call(SYS_close, file, 0, 0, 0, 0, 0);
    return length > 0 ? (size_t)length : 0;
}

void os_write_error(const char *text, size_t bytes) {
    call(SYS_write, 2, (long)text, (long)bytes, 0, 0, 0);
}

void os_abort(void) {
    abort();
}

unsigned os_process(void) {
    return (unsigned)call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

/* What libc notes of a thread is told by the number of its clock.  fork renews it; in a child that shares its parent's
 * memory (vfork) it is that of the parent's thread. */
bool os_is_first_thread(void) {
    clockid_t clock;
    unsigned number = (unsigned)call(SYS_gettid, 0, 0, 0, 0, 0, 0);
    return number == os_process() && pthread_getcpuclockid(pthread_self(), &clock) == 0 &&
           number == (unsigned)~(clock >> CLOCK_NUMBER_SHIFT);
}
