/* SPDX-License-Identifier: MIT
 *
 * fake_os.h: the script of the operating system that unit tests are linked with.
 *
 * The address space is one reservation of 2 TiB.  What is handed out in it is real memory, readable,
 * writable and zero; everything else in it faults.
 *
 *   base              + 1 GiB              + 1 TiB                        + 2 TiB
 *   [break ->  ..............  hints ....  class map -> ..............  <- mappings]
 *
 * Each call is checked against the books (shadow_support.h) whether or not the script lets it fail:
 * what is unmapped, purged or cut off must have been handed out, in whole pages, and must hold no
 * block that the test has registered as live.
 */
#ifndef QUARRY_TEST_FAKE_OS_H
#define QUARRY_TEST_FAKE_OS_H

#include "shadow_support.h"

/* The calls that may fail. */
enum fake_kind {
    FAKE_BREAK_NOW,
    FAKE_BREAK_GROW,
    FAKE_BREAK_SHRINK,
    FAKE_MAP,
    FAKE_MAP_AT,
    FAKE_UNMAP,
    FAKE_REMAP,
    FAKE_PURGE,
    FAKE_SEAL,
    FAKE_POPULATE,
    FAKE_HUGE,
    FAKE_FORK_PAGE,
    FAKE_KINDS,
};

#define FAKE_BIT(kind) (1u << (kind))
#define FAKE_ALL (FAKE_BIT(FAKE_KINDS) - 1)
/* Everything by which memory is obtained. */
#define FAKE_MEMORY \
    (FAKE_BIT(FAKE_BREAK_GROW) | FAKE_BIT(FAKE_MAP) | FAKE_BIT(FAKE_MAP_AT) | FAKE_BIT(FAKE_REMAP))

enum { FAKE_VARIABLES = 16, FAKE_FILES = 8 };

struct fake_os {
    /* The script; a test may change it at any time.  The heap is initialised before main with all
     * of it at rest, or with FAKE_OS_FAIL=FIRST:COUNT from the real environment. */
    size_t page_bytes;                       /* 4 KiB */
    unsigned fail_kinds;                     /* calls of these kinds fail: FAKE_BIT() */
    uint64_t fail_first, fail_count;         /* calls number first .. first + count - 1 fail */
    size_t break_limit;                      /* the break never exceeds its start by more */
    size_t space_limit;                      /* bytes handed out never exceed this */
    size_t foreign_sbrk_bytes;               /* somebody raises the break before each growth */
    const char *environment[FAKE_VARIABLES]; /* "NAME=value" */
    const char *file[FAKE_FILES][2];         /* path and content */
    bool environment_missing;                /* it is not there yet */
    unsigned processors;                     /* 4 */
    uint64_t idle_ns;                        /* of which the process did not work */
    uint64_t clock_ns, clock_step_ns;        /* what the clock shows; each look adds a step */
    void (*on_yield)(void);                  /* what another thread does meanwhile */
    void (*on_barrier)(void);                /* what it has done until the barrier */
    bool no_barrier;                         /* the kernel has none */

    /* What has happened. */
    uint64_t calls; /* that may fail, from 1 */
    uint64_t count[FAKE_KINDS];
    uint64_t failures; /* calls that the script let fail */
    uint64_t waits, wakes, yields;
    uint64_t populated_bytes, huge_bytes;
    uint32_t *fork_page; /* a test that stores 0 there plays the child of a fork */
};

extern struct fake_os fake_os;

/* Where the break is. */
uintptr_t fake_break(void);

/* Somebody else calls sbrk; a negative number lowers the break. */
void fake_foreign_sbrk(intptr_t bytes);

/* Somebody else maps exactly there; false if something is there already. */
bool fake_foreign_map(uintptr_t address, size_t bytes);

/* Bytes that the allocator holds of the address space now. */
size_t fake_owned_bytes(void);

/* Bytes of the range that are resident. */
size_t fake_resident_bytes(const void *start, size_t bytes);

#endif
