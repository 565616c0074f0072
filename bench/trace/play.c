/* SPDX-License-Identifier: MIT
 *
 * play.c
 *
 * PURPOSE  Makes the calls of a trace, each thread's in a thread of its own.
 *
 * LOCKING  A slot's generation says how far its block has come. A record that crosses threads waits
 *          until it is the one that stands in the record; what the other thread stored before, the
 *          address, can be seen then. All other records are ordered by their thread.
 *
 * COST     The player's tables are 24 bytes per slot and 16 KiB per thread that runs, all mapped
 *          beforehand or outside the allocator.
 */
#include "play.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "../workloads/workload.h"
#include "content.h"
#include "tool.h"

#define STACK_BYTES (128 << 10)
#define SPINS 64
#define YIELDS 256
#define NAP_NS 50000
#define RECORDS_PER_LOOK 256

struct block {
    unsigned char *at;
    size_t size;
    _Atomic uint32_t generation;
};

struct player {
    struct trace_cursor cursor;
    struct worker *worker; /* for the figures */
    _Atomic bool ended;
};

static struct playing settings_of_play;
static struct block *blocks;
static struct player *players;
static _Atomic uint32_t unfinished;
static _Atomic uint64_t records_done;

static const struct trace_header *header(void) {
    return &settings_of_play.trace->header;
}

void play_prepare(const struct playing *playing) {
    settings_of_play = *playing;
    blocks = tool_map_resident(header()->slots * sizeof *blocks + 1);
    players = tool_map_resident(header()->threads * sizeof *players);
    for (uint32_t i = 0; i < header()->threads; i++) {
        players[i].worker = &workers[i];
    }
}

/* ---- Waiting --------------------------------------------------------------------------------- */

static void spin_pause(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void pause_a_little(unsigned tries) {
    if (tries < SPINS) {
        spin_pause();
    } else if (tries < SPINS + YIELDS) {
        sched_yield();
    } else {
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

static void wait_for_generation(const struct block *block, uint32_t wanted) {
    for (unsigned tries = 0;
         atomic_load_explicit(&block->generation, memory_order_acquire) != wanted; tries++) {
        pause_a_little(tries);
    }
}

static void wait_for_end(const struct player *player) {
    for (unsigned tries = 0; !atomic_load(&player->ended); tries++) {
        pause_a_little(tries);
    }
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static void count(struct worker *worker, size_t before, size_t after) {
    int64_t live = atomic_load_explicit(&worker->live, memory_order_relaxed);
    live += (int64_t)after - (int64_t)before;
    atomic_store_explicit(&worker->live, live, memory_order_relaxed);
    worker->operations++;
}

static void check_block(struct worker *worker, const struct block *block, uint32_t number,
                        uint32_t generation, size_t kept) {
    uint64_t key = content_key(number, generation);
    size_t right = content_check(block->at, block->size, kept, key, settings_of_play.verify);
    if (right != kept) {
        tool_fail("block %u of %zu bytes has lost its content at byte %zu", number, block->size,
                  right);
    }
    worker->verified++;
    worker->checksum += key ^ kept;
}

static void *call(const struct trace_record *record) {
    void *block = NULL;
    size_t least = record->alignment < 3 ? sizeof(void *) : (size_t)1 << record->alignment;
    switch (record->operation) {
    case TRACE_CALLOC:
        return calloc(1, record->size);
    case TRACE_ALIGNED:
        errno = posix_memalign(&block, least, record->size);
        return errno == 0 ? block : NULL;
    default:
        return malloc(record->size);
    }
}

static void allocate(struct worker *worker, struct block *block, const struct trace_record *record,
                     uint32_t generation) {
    unsigned char *at = call(record);
    if (at == NULL) {
        tool_fail("no memory for %llu bytes: %s", (unsigned long long)record->size,
                  strerror(errno));
    }
    if (record->operation == TRACE_ALIGNED &&
        (uintptr_t)at % ((size_t)1 << record->alignment) != 0) {
        tool_fail("a block of %llu bytes is not aligned to 2^%u", (unsigned long long)record->size,
                  record->alignment);
    }
    if (record->operation == TRACE_CALLOC) {
        size_t zeros = content_check_zero(at, record->size, settings_of_play.verify);
        if (zeros != record->size) {
            tool_fail("calloc of %llu bytes: byte %zu is not zero",
                      (unsigned long long)record->size, zeros);
        }
    }
    block->at = at;
    block->size = record->size;
    content_write(at, block->size, content_key(record->block, generation + 1),
                  settings_of_play.verify);
    count(worker, 0, block->size);
}

static void resize(struct worker *worker, struct block *block, const struct trace_record *record,
                   uint32_t generation) {
    /* A size of 0 would free: the trace has TRACE_FREE for that. */
    size_t size = record->size > 0 ? record->size : 1;
    unsigned char *at = realloc(block->at, size);
    if (at == NULL) {
        tool_fail("no memory for %zu bytes: %s", size, strerror(errno));
    }
    size_t before = block->size;
    block->at = at;
    check_block(worker, block, record->block, generation, before < size ? before : size);
    block->size = size;
    content_write(at, size, content_key(record->block, generation + 2), settings_of_play.verify);
    count(worker, before, size);
}

static void release(struct worker *worker, struct block *block, uint32_t number,
                    uint32_t generation) {
    check_block(worker, block, number, generation, block->size);
    free(block->at);
    count(worker, block->size, 0);
    block->at = NULL;
    block->size = 0;
}

static void change_block(struct worker *worker, const struct trace_record *record) {
    struct block *block = &blocks[record->block];
    if (record->crossing) {
        wait_for_generation(block, record->generation);
    }
    uint32_t generation = atomic_load_explicit(&block->generation, memory_order_relaxed);
    uint32_t steps = 1;
    if (record->operation == TRACE_FREE) {
        release(worker, block, record->block, generation);
    } else if (record->operation == TRACE_REALLOC) {
        resize(worker, block, record, generation);
        steps = 2;
    } else {
        allocate(worker, block, record, generation);
    }
    atomic_store_explicit(&block->generation, generation + steps, memory_order_release);
}

/* ---- Threads --------------------------------------------------------------------------------- */

static void start_thread(uint32_t number);

static void look_around(struct player *player, uint64_t *since) {
    if (++*since % RECORDS_PER_LOOK == 0) {
        figures_sample();
        uint64_t done = atomic_fetch_add(&records_done, RECORDS_PER_LOOK) + RECORDS_PER_LOOK;
        if (player->worker->operations % 65536 < RECORDS_PER_LOOK) {
            tool_progress("replaying", done, header()->records);
        }
    }
}

static void *run_thread(void *argument) {
    struct player *player = argument;
    struct trace_record record;
    uint64_t records = 0;
    trace_begin(settings_of_play.trace, &player->cursor, (uint32_t)(player - players));
    while (trace_next(settings_of_play.trace, &player->cursor, &record)) {
        look_around(player, &records);
        if (record.operation <= TRACE_REALLOC) {
            change_block(player->worker, &record);
        } else if (record.operation == TRACE_START) {
            start_thread(record.block);
        } else if (record.operation == TRACE_JOIN) {
            wait_for_end(&players[record.block]);
        }
    }
    trace_end(&player->cursor);
    atomic_store(&player->ended, true);
    atomic_fetch_sub(&unfinished, 1);
    return NULL;
}

static void start_thread(uint32_t number) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&thread, &attributes, run_thread, &players[number]);
    if (error != 0) {
        tool_fail("cannot start thread %u: %s", number, strerror(error));
    }
    pthread_attr_destroy(&attributes);
}

struct played play(void) {
    struct played played = {0};
    double begun = seconds_now();
    atomic_store(&unfinished, header()->threads);
    /* The first thread's records are this thread's: a process that had one thread has one now. */
    run_thread(&players[0]);
    for (unsigned tries = 0; atomic_load(&unfinished) > 0; tries++) {
        pause_a_little(tries);
    }
    played.seconds = seconds_now() - begun;
    tool_progress_end();
    for (uint32_t i = 0; i < header()->threads; i++) {
        played.calls += workers[i].operations;
        played.verified += workers[i].verified;
        played.checksum += workers[i].checksum;
    }
    return played;
}

void play_check_rest(struct played *played) {
    struct worker rest = {0};
    for (uint32_t i = 0; i < header()->slots; i++) {
        uint32_t generation = atomic_load(&blocks[i].generation);
        if (generation % 2 == 1) {
            check_block(&rest, &blocks[i], i, generation, blocks[i].size);
        }
    }
    played->verified += rest.verified;
    played->checksum += rest.checksum;
}
