/* SPDX-License-Identifier: MIT
 *
 * reader.c: see reader.h. Whatever the file says, nothing is read or written outside the buffers,
 * and no number is passed on that is out of the range that the header gives.
 */
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define ALIGNMENT_MOST 62 /* log2 */

struct trace_place {
    uint64_t offset; /* of the chunk's header */
    uint32_t next;   /* of the same thread, as index + 1 */
};

static _Noreturn void damaged(const struct trace *trace, uint64_t offset, const char *what) {
    tool_fail("%s: damaged at byte %llu: %s; record or convert it again", trace->path,
              (unsigned long long)offset, what);
}

static void read_at(const struct trace *trace, uint64_t offset, void *out, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(trace->fd, (char *)out + done, bytes - done, (off_t)(offset + done));
        if (got <= 0) {
            tool_fail("cannot read %s: %s", trace->path, got < 0 ? strerror(errno) : "it shrank");
        }
        done += (size_t)got;
    }
}

static void check_header(struct trace *trace) {
    struct trace_header *header = &trace->header;
    if (trace->bytes < sizeof *header) {
        tool_fail("%s is no trace: it is too short", trace->path);
    }
    read_at(trace, 0, header, sizeof *header);
    if (memcmp(header->magic, TRACE_MAGIC, sizeof header->magic) != 0) {
        tool_fail("%s is no trace: make one with quarry_trace", trace->path);
    }
    if (header->version != TRACE_VERSION) {
        tool_fail("%s has version %u of the format, not %d: record it again", trace->path,
                  header->version, TRACE_VERSION);
    }
    if (trace_check((const unsigned char *)header, offsetof(struct trace_header, check)) !=
        header->check) {
        damaged(trace, 0, "its header does not match the header's checksum");
    }
    tool_clean(header->command, sizeof header->command);
    /* A record has at least two bytes, and a slot or a thread at least one record. */
    if (header->records > trace->bytes / 2 || header->slots > header->records ||
        header->threads > header->records || header->threads == 0 ||
        header->live_peak > PTRDIFF_MAX) {
        damaged(trace, 0, "its header does not agree with its length");
    }
}

static void check_chunk(const struct trace *trace, uint64_t offset,
                        const struct trace_chunk *chunk) {
    if (chunk->magic != TRACE_CHUNK_MAGIC) {
        damaged(trace, offset, "not the start of a chunk");
    }
    if (chunk->thread >= trace->header.threads || chunk->bytes > TRACE_CHUNK_MOST ||
        chunk->bytes > trace->bytes - offset - sizeof *chunk) {
        damaged(trace, offset, "a chunk whose numbers are out of range");
    }
}

/* Chunks are linked from the last to the first, so that each thread's list is in file order. */
static void find_chunks(struct trace *trace) {
    struct trace_chunk chunk;
    uint64_t records = 0;
    for (uint64_t at = sizeof trace->header; at < trace->bytes; at += sizeof chunk + chunk.bytes) {
        if (trace->bytes - at < sizeof chunk) {
            damaged(trace, at, "it ends within a chunk");
        }
        read_at(trace, at, &chunk, sizeof chunk);
        check_chunk(trace, at, &chunk);
        trace->places = tool_grow(trace->places, &trace->place_room, trace->place_count + 1,
                                  sizeof *trace->places);
        /* Until they are linked, `next` holds the thread. */
        trace->places[trace->place_count++] = (struct trace_place){at, chunk.thread};
        records += chunk.records;
    }
    if (records != trace->header.records) {
        damaged(trace, trace->bytes, "there are more or fewer records than its header says");
    }
    for (size_t i = trace->place_count; i-- > 0;) {
        uint32_t thread = trace->places[i].next;
        trace->places[i].next = trace->first[thread];
        trace->first[thread] = (uint32_t)i + 1;
    }
}

void trace_open(struct trace *trace, const char *path) {
    struct stat about;
    *trace = (struct trace){.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (trace->fd < 0 || fstat(trace->fd, &about) != 0) {
        tool_fail("cannot read %s: %s", path, strerror(errno));
    }
    if (!S_ISREG(about.st_mode)) {
        tool_fail("%s is no trace: not a regular file", path);
    }
    trace->bytes = (uint64_t)about.st_size;
    check_header(trace);
    trace->first = tool_map(trace->header.threads * sizeof *trace->first);
    find_chunks(trace);
}

void trace_close(struct trace *trace) {
    close(trace->fd);
    tool_unmap(trace->places, trace->place_room * sizeof *trace->places);
    tool_unmap(trace->first, trace->header.threads * sizeof *trace->first);
}

void trace_begin(const struct trace *trace, struct trace_cursor *cursor, uint32_t thread) {
    *cursor = (struct trace_cursor){.thread = thread, .next = trace->first[thread]};
    cursor->buffer = tool_map(TRACE_CHUNK_MOST);
}

void trace_end(struct trace_cursor *cursor) {
    tool_unmap(cursor->buffer, TRACE_CHUNK_MOST);
    cursor->buffer = NULL;
}

void trace_fail(const struct trace *trace, const struct trace_cursor *cursor, const char *what) {
    damaged(trace, cursor->offset + (uint64_t)(cursor->at - cursor->buffer), what);
}

static bool next_chunk(const struct trace *trace, struct trace_cursor *cursor) {
    struct trace_chunk chunk;
    if (cursor->expected != 0) {
        trace_fail(trace, cursor, "a chunk with fewer records than it says");
    }
    if (cursor->next == 0) {
        return false;
    }
    const struct trace_place *place = &trace->places[cursor->next - 1];
    read_at(trace, place->offset, &chunk, sizeof chunk);
    /* Once more: the file may have changed since it was opened. */
    check_chunk(trace, place->offset, &chunk);
    cursor->offset = place->offset + sizeof chunk;
    read_at(trace, cursor->offset, cursor->buffer, chunk.bytes);
    cursor->at = cursor->buffer;
    cursor->end = cursor->buffer + chunk.bytes;
    cursor->expected = chunk.records;
    cursor->next = place->next;
    if (trace_check(cursor->buffer, chunk.bytes) != chunk.check) {
        damaged(trace, place->offset, "a chunk whose content does not match its checksum");
    }
    return true;
}

static uint64_t take(const struct trace *trace, struct trace_cursor *cursor, uint64_t below) {
    uint64_t value = 0;
    if (!get_varint(&cursor->at, cursor->end, &value)) {
        trace_fail(trace, cursor, "a number that does not end");
    }
    if (value >= below) {
        trace_fail(trace, cursor, "a number that is out of range");
    }
    return value;
}

bool trace_next(const struct trace *trace, struct trace_cursor *cursor,
                struct trace_record *record) {
    while (cursor->at == cursor->end) {
        if (!next_chunk(trace, cursor)) {
            return false;
        }
    }
    if (cursor->expected-- == 0) {
        trace_fail(trace, cursor, "a chunk with more records than it says");
    }
    unsigned char byte = *cursor->at++;
    *record = (struct trace_record){.operation = byte & (TRACE_CROSSING - 1),
                                    .crossing = (byte & TRACE_CROSSING) != 0};
    unsigned char operation = record->operation;
    if (byte >= 2 * TRACE_CROSSING || operation == 0 || operation > TRACE_TIME ||
        (record->crossing && operation > TRACE_REALLOC)) {
        trace_fail(trace, cursor, "an unknown operation");
    }
    if (operation == TRACE_TIME) {
        record->size = take(trace, cursor, UINT64_MAX);
        return true;
    }
    bool names_block = operation <= TRACE_REALLOC;
    uint32_t limit = names_block ? trace->header.slots : trace->header.threads;
    record->block = (uint32_t)take(trace, cursor, limit);
    record->generation = record->crossing ? (uint32_t)take(trace, cursor, UINT32_MAX) : 0;
    if (names_block && operation != TRACE_FREE) {
        record->size = take(trace, cursor, trace->header.live_peak + 1);
    }
    if (operation == TRACE_ALIGNED) {
        record->alignment = (unsigned char)take(trace, cursor, ALIGNMENT_MOST + 1);
    }
    return true;
}
