/* SPDX-License-Identifier: MIT
 *
 * format.h: the two files of bench/trace, as docs/TRACE.md describes them.
 *
 * The recorder writes a raw log: addresses, in the order of one counter. quarry_trace turns it into
 * a trace: numbered blocks, one stream of records per thread. All numbers are little-endian.
 */
#ifndef TRACE_FORMAT_H
#define TRACE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files are little-endian");

/* ---- The raw log ----------------------------------------------------------------------------- */

#define RAW_MAGIC "QRAWLOG1"
#define RAW_PAGE 4096
#define RAW_CHUNK_MAGIC 0x48435451u /* "QTCH" */
#define RAW_CHUNK_PAGES_MOST 64
/* No record is longer: an operation and four varints. */
#define RECORD_MOST 41

/* The first page. The recorder's process has it mapped as long as it lives. */
struct raw_header {
    char magic[8];
    uint32_t version;
    uint32_t pid;
    uint64_t pages;   /* given out so far, this one included; atomic */
    uint64_t error;   /* errno that ended the recording early, else 0 */
    char command[64]; /* the program's name, NUL-terminated */
};

/* At the start of each chunk; the magic is written last. */
struct raw_chunk {
    uint32_t magic;
    uint32_t pages;
    uint32_t thread;
    uint32_t unused;
    uint64_t sequence; /* what the first record's is counted from */
    uint64_t time_ns;  /* likewise */
};

/* A record is its operation, written last, and varints. 0 is the end of a chunk's records. */
enum raw_operation {
    RAW_END = 0,
    RAW_MALLOC = 1,        /* sequence, size, address */
    RAW_CALLOC = 2,        /* sequence, size, address */
    RAW_ALIGNED = 3,       /* sequence, size, address, log2 of the alignment */
    RAW_FREE = 4,          /* sequence, address */
    RAW_REALLOC_BEGIN = 5, /* sequence, size, address before */
    RAW_REALLOC_END = 6,   /* sequence, address after, 0 if it failed */
    RAW_TIME = 7,          /* nanoseconds since the last one or the chunk's start */
};

/* ---- The trace ------------------------------------------------------------------------------- */

#define TRACE_MAGIC "QTRACE1\n"
#define TRACE_VERSION 1
#define TRACE_CHUNK_MAGIC 0x4b484351u /* "QCHK" */
#define TRACE_CHUNK_MOST 16384        /* bytes of records */

#define TRACE_INCOMPLETE 1u /* flag: the recording ended before the program did */

struct trace_header {
    char magic[8];
    uint32_t version;
    uint32_t flags;
    uint32_t threads;
    uint32_t slots;       /* block numbers are below this */
    uint64_t records;     /* of all threads */
    uint64_t calls;       /* those that call the allocator */
    uint64_t live_peak;   /* bytes asked for and not freed, at most */
    uint64_t duration_ns; /* from the first to the last time seen */
    uint64_t failed;      /* reallocs left out because they failed */
    uint64_t foreign;     /* frees left out because their block was not recorded */
    char command[64];     /* NUL-terminated */
    uint64_t check;       /* trace_check of all of the above */
};

struct trace_chunk {
    uint32_t magic;
    uint32_t thread;
    uint32_t bytes; /* of records, following this header */
    uint32_t records;
    uint64_t check; /* trace_check of the records */
};

/* A record is an operation, plus TRACE_CROSSING where a generation follows the block, and varints:
 * block, generation if crossing, size, log2 of the alignment. */
enum trace_operation {
    TRACE_MALLOC = 1,  /* block, size */
    TRACE_CALLOC = 2,  /* block, size */
    TRACE_ALIGNED = 3, /* block, size, alignment */
    TRACE_FREE = 4,    /* block */
    TRACE_REALLOC = 5, /* block, size: the block keeps its number */
    TRACE_START = 6,   /* thread: it begins now */
    TRACE_JOIN = 7,    /* thread: wait until it has ended */
    TRACE_TIME = 8,    /* nanoseconds since the thread's last one */
};
#define TRACE_CROSSING 0x40

struct trace_record {
    unsigned char operation; /* without TRACE_CROSSING */
    unsigned char alignment; /* log2 */
    bool crossing;
    uint32_t block; /* or thread */
    uint32_t generation;
    uint64_t size; /* or nanoseconds */
};

/* ---- Varints --------------------------------------------------------------------------------- */

static inline unsigned char *put_varint(unsigned char *at, uint64_t value) {
    while (value >= 0x80) {
        *at++ = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    *at++ = (unsigned char)value;
    return at;
}

/* Advances *at; false if the varint does not end before the limit, or in 64 bits. */
static inline bool get_varint(const unsigned char **at, const unsigned char *limit,
                              uint64_t *value) {
    uint64_t sum = 0;
    for (unsigned shift = 0; shift < 64 && *at < limit; shift += 7) {
        unsigned char byte = *(*at)++;
        sum |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = sum;
            return shift < 63 || byte <= 1;
        }
    }
    return false;
}

/* Addresses go up and down: the sign is moved to the lowest bit. */
static inline uint64_t fold_sign(uint64_t difference) {
    return difference << 1 ^ -(difference >> 63);
}

static inline uint64_t unfold_sign(uint64_t folded) {
    return folded >> 1 ^ -(folded & 1);
}

/* The checksum of both headers: 8 bytes at a time, the last ones padded with zeros. */
static inline uint64_t trace_check(const unsigned char *bytes, size_t count) {
    uint64_t sum = count;
    for (size_t at = 0; at < count; at += sizeof sum) {
        uint64_t word = 0;
        memcpy(&word, bytes + at, count - at < sizeof word ? count - at : sizeof word);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 32;
    }
    return sum;
}

#endif /* TRACE_FORMAT_H */
