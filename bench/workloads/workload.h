/* SPDX-License-Identifier: MIT
 *
 * workload.h: what the programs of bench/workloads share.
 *
 * A program defines `workload` and links the *_support.c files, which contain main. They read the
 * options, start the workers, keep account of the live bytes, look at the process's own RSS while
 * it runs, and check every block: what was written into it has to be there when it goes. What a
 * program does depends on its options alone, never on addresses or time, so that its output is the
 * same under every allocator.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORKERS_MOST 1024

struct settings {
    double scale;       /* share of the usual work */
    unsigned threads;   /* workers */
    uint64_t seed;      /* of all random choices */
    double idle;        /* seconds of rest before rss_idle_kb is read */
    const char *report; /* file for the figures, or NULL */
    bool verify;        /* write and check every byte, not only a word per cache line */
};
extern struct settings settings;

/* One per thread; no two share a cache line. Used by one thread at a time. */
struct worker {
    _Alignas(128) unsigned index;
    uint64_t random;
    uint32_t serial;           /* number of the next block */
    uint32_t until_clock;      /* operations until the next look at the clock */
    uint64_t operations;       /* calls of the allocator */
    uint64_t verified;         /* blocks that were found whole at their end */
    uint64_t checksum;         /* over these, in whatever order */
    _Atomic int64_t live;      /* bytes allocated minus bytes freed by this worker */
    _Atomic int64_t live_many; /* the same, in blocks */
};

struct workload {
    const char *name;
    const char *about; /* one line for --help */
    unsigned threads;  /* default of --threads */
    unsigned minimum;  /* fewest threads that make sense */
    unsigned maximum;  /* most; 0: no limit but WORKERS_MOST */
    /* In the first thread, before the level of RSS is noted: workload_reserve what is needed. */
    void (*setup)(void);
    /* In each worker's thread. */
    void (*work)(struct worker *worker);
    /* In the first thread after the rest that --idle asks for: drops what is still live. */
    void (*finish)(struct worker *worker);
};
extern const struct workload workload;

/* ---- For the programs ------------------------------------------------------------------------ */

/* count scaled by --scale, at least 1. */
size_t workload_scaled(size_t count);
/* Memory for the program's own tables, zero and resident, not from the allocator; exits if none. */
void *workload_reserve(size_t bytes);
/* Ends the program with one line and status 1. */
_Noreturn void workload_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A random number below bound (at least 1), from the worker's own sequence. */
uint32_t draw_below(struct worker *worker, uint32_t bound);
/* A random size between the two, each power of two as likely as the others: most are small. */
size_t draw_size(struct worker *worker, size_t least, size_t most);
/* Restarts the sequence: the worker draws what any other with this number would. */
void draw_restart(struct worker *worker, uint64_t number);

/* Blocks of at least BLOCK_LEAST bytes whose content says how large they are. */
#define BLOCK_LEAST 8
void *block_new(struct worker *worker, size_t size);
void *block_new_zeroed(struct worker *worker, size_t size);
void *block_new_aligned(struct worker *worker, size_t alignment, size_t size);
void *block_resize(struct worker *worker, void *block, size_t size);
void block_check(const void *block);
size_t block_size(const void *block);
/* Checks and frees; NULL is ignored. */
void block_drop(struct worker *worker, void *block);

/* ---- Between the support files --------------------------------------------------------------- */

extern struct worker *workers;
uint64_t mix64(uint64_t value);
double seconds_now(void);
/* The level of RSS from which the blocks' is counted; called once, before the first block. */
void figures_begin(void);
/* Looks at RSS and live bytes, if the last look was long enough ago. */
void figures_sample(void);
/* Once the workers have ended, in seconds. */
void figures_end(double elapsed);
/* Rests as long as --idle says, then looks at RSS again. */
void figures_rest(void);
/* Writes the report; exits if it cannot. */
void figures_write(void);

#endif /* WORKLOAD_H */
