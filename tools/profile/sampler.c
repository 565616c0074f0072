/* SPDX-License-Identifier: MIT
 *
 * sampler.c
 *
 * PURPOSE  Draws the samples, and takes the stack of each.
 *
 * LOCKING  None. Since glibc 2.35 and GCC 12 libgcc finds unwind tables without a lock, except for
 *          those of compilers at run time that were registered by __register_frame: from the first
 *          such call on a stack is its caller alone (sampler_unwinder_locks). What allocates or is a
 *          signal handler in between is not sampled.
 *
 * FORK     A child finds the mark wiped. It leaves its parent's file and samples alone, and starts
 *          its own file or stops. A process may become another program by exec, which starts anew.
 *
 * FAILURE  Where there can be no file, nothing is sampled; the program goes on. That is told at the start,
 *          not in a child of fork, whose standard error may be something else by then.
 */
#include "sampler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

#include "environment.h"
#include "estimate.h"
#include "mappings.h"
#include "shim/quiet.h"
#include "stacks.h"
#include "store.h"

_Thread_local struct sampler_thread sampler_self __attribute__((tls_model("initial-exec")));

/* READ: the environment alone. */
enum state { UNSETTLED, READ, SETTLING, SAMPLING, OFF };
static _Atomic int state;
static _Atomic uint32_t *mark; /* 0 in a child of fork */
static uint32_t process = 1;
static uint64_t seed;
static _Atomic uint32_t threads;
static _Atomic bool unwinder_locks;

/* ---- Stacks ---------------------------------------------------------------------------------- */

struct walk {
    uint64_t caller;
    uint32_t depth;
    uint64_t frames[PROFILE_FRAMES_MOST];
};

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *given) {
    struct walk *walk = given;
    int interrupted = 0;
    uint64_t address = _Unwind_GetIPInfo(context, &interrupted);
    /* The profiler's own frames come first. */
    if (walk->depth == 0 && address != walk->caller) {
        return _URC_NO_REASON;
    }
    if (address != 0) {
        walk->frames[walk->depth++] = address + (interrupted != 0);
    }
    return walk->depth < PROFILE_FRAMES_MOST ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static void take_stack(struct walk *walk) {
    if (atomic_load_explicit(&unwinder_locks, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&store_header()->shallow, 1, memory_order_relaxed);
    } else {
        _Unwind_Backtrace(step, walk);
    }
    if (walk->depth == 0) {
        walk->frames[walk->depth++] = walk->caller;
    }
}

void sampler_unwinder_locks(void) {
    atomic_store(&unwinder_locks, true);
}

/* ---- Starting -------------------------------------------------------------------------------- */

static uint64_t new_seed(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 32;
}

static void choose_seed(void) {
    seed = environment.seed_given ? environment.seed : new_seed();
}

/* 0, or why there can be no profile. The file comes last: where anything else is missing there is none. */
static int begin(const char *path) {
    errno = ENOMEM;
    if (!blocks_start() || (mark = quiet_fork_mark()) == NULL) {
        return errno;
    }
    return store_open(path, environment.rate);
}

static void settle(void) {
    char path[ENVIRONMENT_PATH_BYTES];
    if (!environment_path(path, false)) {
        atomic_store(&state, OFF);
        return;
    }
    choose_seed();
    int error = begin(path);
    if (error != 0) {
        environment_tell_failure(path, error);
        atomic_store(&state, OFF);
        return;
    }
    /* The unwinder sets itself up, once, under a lock. */
    struct walk walk = {.caller = 1};
    _Unwind_Backtrace(step, &walk);
    atomic_store(&state, SAMPLING);
}

/* In a child of fork, which may have threads by now; none of them has taken a sample. */
static void start_again(void) {
    char path[ENVIRONMENT_PATH_BYTES];
    process++;
    choose_seed();
    blocks_forget_all();
    mappings_leave();
    store_leave();
    atomic_store(mark, 1);
    bool good = environment_path(path, true) && store_open(path, environment.rate) == 0;
    atomic_store(&state, good ? SAMPLING : OFF);
}

/* Whoever changes the state to SETTLING does what is to be done; others are not sampled meanwhile. */
static bool begin_settling(int from) {
    return atomic_compare_exchange_strong(&state, &from, SETTLING);
}

/* Before libc has its environment, nothing can be said. */
static void read_once(void) {
    if (atomic_load(&state) == UNSETTLED && environ != NULL && begin_settling(UNSETTLED)) {
        environment_read();
        atomic_store(&state, READ);
    }
}

/* Before main at the latest: the first call may come when the program has gone to another directory. */
__attribute__((constructor)) static void read_early(void) {
    int saved = errno;
    read_once();
    errno = saved;
}

static bool is_sampling(void) {
    read_once();
    int now = atomic_load(&state);
    if (now == READ && begin_settling(READ)) {
        settle();
    } else if (now == SAMPLING && atomic_load(mark) == 0 && begin_settling(SAMPLING)) {
        if (atomic_load(mark) == 0) {
            start_again();
        } else { /* another thread of the child has, between the two looks above */
            atomic_store(&state, SAMPLING);
        }
    }
    return atomic_load(&state) == SAMPLING;
}

/* ---- Samples --------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t draw(void) {
    uint64_t word = sampler_self.random += 0x9e3779b97f4a7c15ull;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

/* A thread's first step is drawn at its first call.  The one that forked has drawn its step before: the sample
 * that it leads to is the child's. */
static void begin_thread(void) {
    uint64_t number = atomic_fetch_add(&threads, 1);
    bool forked = sampler_self.process != 0;
    sampler_self.process = process;
    sampler_self.random = (seed + number) * 0xd1342543de82ef95ull;
    if (!forked) {
        sampler_self.left = estimate_step(environment.rate, draw());
    }
}

static bool is_due(size_t size) {
    if (!is_sampling()) {
        /* Never again, once it is certain. */
        sampler_self.left = atomic_load(&state) == OFF ? UINT64_MAX : 0;
        return false;
    }
    if (sampler_self.process != process) {
        begin_thread();
    }
    if (size < sampler_self.left) {
        sampler_self.left -= size;
        return false;
    }
    return true;
}

bool sampler_due_slow(size_t size) {
    if (sampler_self.inside) {
        if (atomic_load(&state) == SAMPLING) {
            atomic_fetch_add_explicit(&store_header()->nested, 1, memory_order_relaxed);
        }
        return false;
    }
    int saved = errno;
    sampler_self.inside = true;
    sampler_self.inside = is_due(size);
    errno = saved;
    return sampler_self.inside;
}

/* That an address is there already means that it was freed past the profiler. */
static void drop_stale(const void *block) {
    struct block_sample stale;
    if (blocks_may_have(block) && blocks_remove(block, &stale)) {
        sampler_gone(&stale);
    }
}

static void take(const void *block, size_t size, const void *caller) {
    struct walk walk = {.caller = (uintptr_t)caller};
    take_stack(&walk);
    drop_stale(block);
    struct block_sample sample = {size, stacks_find(walk.frames, walk.depth)};
    if (blocks_add(block, sample)) {
        stacks_count_allocated(sample.stack, size);
    } else {
        atomic_fetch_add_explicit(&store_header()->untracked, 1, memory_order_relaxed);
    }
}

void *sampler_take(void *block, size_t size, const void *caller) {
    int saved = errno;
    if (block != NULL) {
        take(block, size, caller);
    }
    sampler_self.left = estimate_step(environment.rate, draw());
    sampler_self.inside = false;
    errno = saved;
    return block;
}

bool sampler_hold(const void *block, struct block_sample *sample) {
    int saved = errno;
    bool held = is_sampling() && blocks_remove(block, sample);
    errno = saved;
    return held;
}

void sampler_gone(const struct block_sample *sample) {
    stacks_count_freed(sample->stack, sample->size);
}

void sampler_back(const void *block, const struct block_sample *sample) {
    if (!blocks_add(block, *sample)) {
        sampler_gone(sample);
    }
}
