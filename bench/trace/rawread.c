/* SPDX-License-Identifier: MIT
 *
 * rawread.c
 *
 * PURPOSE  Merges the threads' chunks of a raw log into one sequence.
 *
 * LAYOUT   The file is mapped, read-only. The chunks of a thread form a list in file order, which
 *          is the order in which they were written. Each thread has one decoded record ahead; a
 *          heap orders the threads by its sequence number.
 *
 * FAILURE  Whatever a damaged file says, nothing is read outside it.
 */
#include "rawread.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

struct chunk_link {
    uint32_t page;
    uint32_t next; /* index of the thread's next chunk, or 0 */
};

struct stream {
    uint32_t first, last; /* chunks, as indices from 1; 0 if there is none */
    const unsigned char *at, *end;
    uint64_t sequence, address, time_ns;
    struct raw_record ahead;
};

struct raw_log {
    const char *path;
    const unsigned char *bytes;
    size_t size, pages_done;
    struct chunk_link *chunks;
    size_t chunk_count, chunk_room;
    struct stream *streams;
    size_t thread_count, thread_room;
    uint32_t *heap;
    size_t heap_count;
};

static _Noreturn void damaged(const struct raw_log *log, const unsigned char *at,
                              const char *what) {
    tool_fail("%s: damaged at byte %zu: %s; record it again", log->path, (size_t)(at - log->bytes),
              what);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void map_file(struct raw_log *log) {
    struct stat about;
    int fd = open(log->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) {
        tool_fail("cannot read %s: %s", log->path, strerror(errno));
    }
    log->size = (size_t)about.st_size;
    if (!S_ISREG(about.st_mode) || log->size < RAW_PAGE) {
        tool_fail("%s is no raw log: it is too short", log->path);
    }
    void *memory = mmap(NULL, log->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
        tool_fail("cannot map %s: %s", log->path, strerror(errno));
    }
    close(fd);
    log->bytes = memory;
    const struct raw_header *header = raw_header(log);
    if (memcmp(header->magic, RAW_MAGIC, sizeof header->magic) != 0 || header->version != 1) {
        tool_fail("%s is no raw log of this version", log->path);
    }
}

static void add_chunk(struct raw_log *log, uint32_t page, const struct raw_chunk *chunk) {
    /* Each thread has at least a page. */
    if (chunk->thread >= log->size / RAW_PAGE) {
        damaged(log, (const unsigned char *)chunk, "an impossible thread number");
    }
    size_t threads = (size_t)chunk->thread + 1;
    log->chunks =
        tool_grow(log->chunks, &log->chunk_room, log->chunk_count + 2, sizeof *log->chunks);
    log->streams = tool_grow(log->streams, &log->thread_room, threads, sizeof *log->streams);
    log->thread_count = threads > log->thread_count ? threads : log->thread_count;
    uint32_t index = (uint32_t)++log->chunk_count;
    struct stream *stream = &log->streams[chunk->thread];
    log->chunks[index].page = page;
    if (stream->last != 0) {
        log->chunks[stream->last].next = index;
    } else {
        stream->first = index;
    }
    stream->last = index;
}

/* A chunk that was given out, but not begun when the process ended, is skipped page by page. */
static void find_chunks(struct raw_log *log) {
    for (size_t page = 1; (page + 1) * RAW_PAGE <= log->size;) {
        const unsigned char *at = log->bytes + page * RAW_PAGE;
        struct raw_chunk chunk;
        memcpy(&chunk, at, sizeof chunk);
        if (chunk.magic == 0) {
            page++;
            continue;
        }
        if (chunk.magic != RAW_CHUNK_MAGIC || chunk.pages == 0 ||
            chunk.pages > RAW_CHUNK_PAGES_MOST || (page + chunk.pages) * RAW_PAGE > log->size) {
            damaged(log, at, "not the start of a chunk");
        }
        add_chunk(log, (uint32_t)page, (const struct raw_chunk *)at);
        page += chunk.pages;
    }
}

/* ---- One thread's records -------------------------------------------------------------------- */

static bool next_chunk(struct raw_log *log, struct stream *stream) {
    if (stream->first == 0) {
        return false;
    }
    const unsigned char *at = log->bytes + (size_t)log->chunks[stream->first].page * RAW_PAGE;
    struct raw_chunk chunk;
    memcpy(&chunk, at, sizeof chunk);
    stream->at = at + sizeof chunk;
    stream->end = at + (size_t)chunk.pages * RAW_PAGE;
    if (chunk.sequence < stream->sequence) {
        damaged(log, at, "a chunk is out of order");
    }
    stream->sequence = chunk.sequence;
    stream->address = 0;
    stream->time_ns = chunk.time_ns;
    stream->first = log->chunks[stream->first].next;
    log->pages_done += chunk.pages;
    tool_progress("converting", log->pages_done * RAW_PAGE, log->size);
    return true;
}

static uint64_t take(struct raw_log *log, struct stream *stream) {
    uint64_t value = 0;
    if (!get_varint(&stream->at, stream->end, &value)) {
        damaged(log, stream->at, "a number that does not end");
    }
    return value;
}

static void take_address(struct raw_log *log, struct stream *stream, struct raw_record *record) {
    stream->address += unfold_sign(take(log, stream));
    record->address = stream->address;
}

static void decode(struct raw_log *log, struct stream *stream, struct raw_record *record) {
    const unsigned char *start = stream->at++;
    record->operation = *start;
    if (record->operation == RAW_TIME) {
        stream->time_ns += take(log, stream);
        record->time_ns = stream->time_ns;
        return;
    }
    if (record->operation > RAW_TIME) {
        damaged(log, start, "an unknown operation");
    }
    uint64_t difference = take(log, stream);
    if (difference > UINT64_MAX - stream->sequence) {
        damaged(log, start, "an impossible sequence number");
    }
    stream->sequence += difference;
    if (record->operation != RAW_FREE && record->operation != RAW_REALLOC_END) {
        record->size = take(log, stream);
    }
    take_address(log, stream, record);
    if (record->operation <= RAW_ALIGNED && (record->size > PTRDIFF_MAX || record->address == 0)) {
        damaged(log, start, "an impossible block");
    }
    if (record->operation == RAW_ALIGNED) {
        record->alignment = take(log, stream);
        if (record->alignment > 62) {
            damaged(log, start, "an impossible alignment");
        }
    }
}

/* Decodes the thread's next record into stream->ahead; false if there is none. */
static bool advance(struct raw_log *log, uint32_t thread) {
    struct stream *stream = &log->streams[thread];
    while (stream->at == stream->end || *stream->at == RAW_END) {
        if (!next_chunk(log, stream)) {
            return false;
        }
    }
    stream->ahead = (struct raw_record){.thread = thread};
    decode(log, stream, &stream->ahead);
    stream->ahead.sequence = stream->sequence;
    return true;
}

/* ---- The merge ------------------------------------------------------------------------------- */

static uint64_t rank(const struct raw_log *log, size_t place) {
    return log->streams[log->heap[place]].ahead.sequence;
}

static void sink(struct raw_log *log, size_t place) {
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= log->heap_count) {
            return;
        }
        if (child + 1 < log->heap_count && rank(log, child + 1) < rank(log, child)) {
            child++;
        }
        if (rank(log, place) <= rank(log, child)) {
            return;
        }
        uint32_t thread = log->heap[place];
        log->heap[place] = log->heap[child];
        log->heap[child] = thread;
        place = child;
    }
}

bool raw_next(struct raw_log *log, struct raw_record *record) {
    if (log->heap_count == 0) {
        return false;
    }
    uint32_t thread = log->heap[0];
    *record = log->streams[thread].ahead;
    if (!advance(log, thread)) {
        record->last = true;
        log->heap[0] = log->heap[--log->heap_count];
    }
    sink(log, 0);
    return true;
}

struct raw_log *raw_open(const char *path) {
    struct raw_log *log = tool_map(sizeof *log);
    log->path = path;
    map_file(log);
    find_chunks(log);
    log->heap = tool_map(log->thread_count * sizeof *log->heap);
    for (uint32_t thread = 0; thread < log->thread_count; thread++) {
        if (advance(log, thread)) {
            log->heap[log->heap_count++] = thread;
        }
    }
    for (size_t place = log->heap_count / 2; place-- > 0;) {
        sink(log, place);
    }
    return log;
}

const struct raw_header *raw_header(const struct raw_log *log) {
    return (const struct raw_header *)(const void *)log->bytes;
}

void raw_close(struct raw_log *log) {
    tool_progress_end();
    munmap((void *)(uintptr_t)log->bytes, log->size);
    tool_unmap(log->chunks, log->chunk_room * sizeof *log->chunks);
    tool_unmap(log->streams, log->thread_room * sizeof *log->streams);
    tool_unmap(log->heap, log->thread_count * sizeof *log->heap);
    tool_unmap(log, sizeof *log);
}
