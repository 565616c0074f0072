/* SPDX-License-Identifier: MIT
 *
 * writer.c: collects each thread's records into chunks.
 *
 * A thread's buffer grows by doubling up to the size of a chunk, for most of very many threads do
 * little.
 */
#include "writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define FIRST_BUFFER 512

struct buffer {
    unsigned char *bytes;
    uint32_t room, used, records;
};

struct writer {
    const char *path;
    FILE *file;
    struct buffer *buffers;
    size_t room;
    uint32_t threads;
    uint64_t records;
};

static void write_bytes(struct writer *writer, const void *bytes, size_t count) {
    if (fwrite(bytes, 1, count, writer->file) != count) {
        tool_fail("cannot write %s: %s", writer->path, strerror(errno));
    }
}

struct writer *writer_open(const char *path) {
    static const struct trace_header empty;
    struct writer *writer = tool_map(sizeof *writer);
    writer->path = path;
    writer->file = fopen(path, "wb");
    if (writer->file == NULL) {
        tool_fail("cannot write %s: %s", path, strerror(errno));
    }
    write_bytes(writer, &empty, sizeof empty);
    return writer;
}

static void flush(struct writer *writer, uint32_t thread) {
    struct buffer *buffer = &writer->buffers[thread];
    struct trace_chunk chunk = {
        .magic = TRACE_CHUNK_MAGIC,
        .thread = thread,
        .bytes = buffer->used,
        .records = buffer->records,
        .check = trace_check(buffer->bytes, buffer->used),
    };
    write_bytes(writer, &chunk, sizeof chunk);
    write_bytes(writer, buffer->bytes, buffer->used);
    buffer->used = buffer->records = 0;
}

static void make_room(struct writer *writer, uint32_t thread) {
    struct buffer *buffer = &writer->buffers[thread];
    if (buffer->used + RECORD_MOST <= buffer->room) {
        return;
    }
    if (buffer->room == TRACE_CHUNK_MOST) {
        flush(writer, thread);
        return;
    }
    buffer->room = buffer->room > 0 ? 2 * buffer->room : FIRST_BUFFER;
    buffer->bytes = realloc(buffer->bytes, buffer->room);
    if (buffer->bytes == NULL) {
        tool_fail("out of memory");
    }
}

static unsigned char *encode(unsigned char *at, const struct trace_record *record) {
    unsigned operation = record->operation;
    *at++ = (unsigned char)(operation | (record->crossing ? TRACE_CROSSING : 0));
    if (operation == TRACE_TIME) {
        return put_varint(at, record->size);
    }
    at = put_varint(at, record->block);
    if (operation == TRACE_START || operation == TRACE_JOIN) {
        return at;
    }
    if (record->crossing) {
        at = put_varint(at, record->generation);
    }
    if (operation != TRACE_FREE) {
        at = put_varint(at, record->size);
    }
    return operation == TRACE_ALIGNED ? put_varint(at, record->alignment) : at;
}

void writer_put(struct writer *writer, uint32_t thread, const struct trace_record *record) {
    writer->buffers =
        tool_grow(writer->buffers, &writer->room, (size_t)thread + 1, sizeof *writer->buffers);
    writer->threads = thread >= writer->threads ? thread + 1 : writer->threads;
    make_room(writer, thread);
    struct buffer *buffer = &writer->buffers[thread];
    unsigned char *start = buffer->bytes + buffer->used;
    buffer->used += (uint32_t)(encode(start, record) - start);
    buffer->records++;
    writer->records++;
}

void writer_close(struct writer *writer, struct trace_header *header) {
    for (uint32_t thread = 0; thread < writer->threads; thread++) {
        if (writer->buffers[thread].used > 0) {
            flush(writer, thread);
        }
        free(writer->buffers[thread].bytes);
    }
    memcpy(header->magic, TRACE_MAGIC, sizeof header->magic);
    header->version = TRACE_VERSION;
    header->threads = writer->threads;
    header->records = writer->records;
    header->check =
        trace_check((const unsigned char *)header, offsetof(struct trace_header, check));
    rewind(writer->file);
    write_bytes(writer, header, sizeof *header);
    if (fclose(writer->file) != 0) {
        tool_fail("cannot write %s: %s", writer->path, strerror(errno));
    }
    tool_unmap(writer->buffers, writer->room * sizeof *writer->buffers);
    tool_unmap(writer, sizeof *writer);
}
