/* SPDX-License-Identifier: MIT
 *
 * format.h: the profile, as the profiled process keeps it in a file that is mapped and shared
 * (docs/FORMATS.md).
 *
 * Whatever is there may be read at any time: counters only grow, records never change their place,
 * and a reference to a record is stored after the record.
 */
#ifndef PROFILE_FORMAT_H
#define PROFILE_FORMAT_H

#include <stdatomic.h>
#include <stdint.h>

#define PROFILE_MAGIC "QHEAPPR"
#define PROFILE_VERSION 1
#define PROFILE_BYTES_MOST (16u << 20)
#define PROFILE_SLOTS 32768u
#define PROFILE_FRAMES_MOST 48
#define PROFILE_COMMAND_BYTES 64

/* A record's offset in the file; 0: none. */
typedef uint32_t profile_reference;

struct profile_header {
    char magic[8];
    uint32_t version, pid;
    uint64_t rate;       /* mean of the bytes from one sample to the next; 1: every block */
    uint64_t started_ns; /* since 1970 */
    uint32_t slots;      /* references to stacks, behind this header */
    profile_reference others;
    _Atomic uint32_t mappings;       /* the newest one */
    _Atomic uint32_t used, extended; /* bytes of the file: in records, and that it has */
    _Atomic uint32_t error;          /* why it could not grow */
    _Atomic uint64_t untracked;      /* samples for which there was no room */
    _Atomic uint64_t nested;         /* that fell on calls within the profiler's own */
    _Atomic uint64_t shallow;        /* with the caller alone, for the unwinder would take a lock */
    char command[PROFILE_COMMAND_BYTES];
};
#define PROFILE_HEADER_BYTES 4096u

/* Sums over samples. What a sample stands for: 1 / (1 - exp(-size / rate)) blocks of its size. */
struct profile_tally {
    _Atomic uint64_t samples, bytes;
    _Atomic uint64_t blocks_256; /* estimated, in 256ths */
    _Atomic uint64_t estimated;  /* bytes */
};

/* Return addresses, innermost first. */
struct profile_stack {
    uint32_t depth, hash;
    struct profile_tally allocated, freed;
    uint64_t frames[];
};

/* A mapping that code was in. */
struct profile_mapping {
    uint64_t start, end, offset;
    profile_reference previous;
    uint32_t path_bytes; /* with the '\0' */
    char path[];
};

#endif /* PROFILE_FORMAT_H */
