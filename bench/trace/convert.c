/* SPDX-License-Identifier: MIT
 *
 * convert.c
 *
 * PURPOSE  Gives blocks numbers in place of addresses, and says what has to wait for what.
 *
 * TERMS    A block's number is the number of a slot, which is used again after the block was freed.
 *          The slot's generation counts its changes: odd while a block is live, even else.
 *          A record crosses if the change before it was another thread's.
 *
 * INVARIANTS
 *          What a record has to wait for (a generation, a thread's start or end) stands before it
 *          in the order of the log. So no set of threads can wait for one another in a circle.
 *
 * WHY NOT  Slots that are never used again would need no generations, but the player's table would
 *          grow with the trace's length. A thread prefers the slots that it has freed itself; what
 *          it has too many of goes to all, oldest first, so that who takes it hardly ever waits.
 */
#include "convert.h"

#include <string.h>

#include "addresses.h"
#include "rawread.h"
#include "tool.h"
#include "writer.h"

#define NONE UINT32_MAX
#define SLOTS_MOST (1u << 31)
#define OWN_FREE_MOST 4096

struct slot {
    uint32_t generation;
    uint32_t owner; /* the thread of the last change */
    uint32_t next;  /* in a list of free slots */
    uint64_t size;
};

struct thread {
    uint32_t number; /* in the trace, from 1: threads are numbered as they begin; 0: not begun */
    uint32_t parent; /* as the log's number */
    uint32_t ended;  /* a child that has ended and was not waited for yet, or NONE */
    uint32_t next_ended;
    uint32_t first_free, last_free, free_count; /* slots, taken at the front */
    uint32_t resizing;                          /* the block of a realloc that has begun, or NONE */
    uint64_t resizing_from, resizing_to;        /* its address and new size */
    uint64_t time_ns;
};

struct conversion {
    struct raw_log *log;
    struct writer *writer;
    struct trace_header *header;
    struct addresses addresses;
    struct slot *slots;
    size_t slot_room;
    struct thread *threads;
    size_t thread_room;
    uint32_t first_free, last_free; /* slots for any thread */
    uint32_t begun;                 /* threads */
    uint32_t previous;              /* thread of the record before */
    uint64_t live, first_ns;
};

static struct thread *thread_at(struct conversion *c, uint32_t thread) {
    size_t before = c->thread_room;
    c->threads = tool_grow(c->threads, &c->thread_room, (size_t)thread + 1, sizeof *c->threads);
    for (size_t i = before; i < c->thread_room; i++) {
        c->threads[i].ended = c->threads[i].next_ended = c->threads[i].resizing = NONE;
        c->threads[i].first_free = c->threads[i].last_free = NONE;
    }
    return &c->threads[thread];
}

static void put(struct conversion *c, uint32_t thread, struct trace_record record) {
    writer_put(c->writer, thread_at(c, thread)->number - 1, &record);
}

/* ---- Slots ----------------------------------------------------------------------------------- */

static uint32_t pop_slot(struct conversion *c, uint32_t *first, uint32_t *last) {
    uint32_t slot = *first;
    if (slot != NONE) {
        *first = c->slots[slot].next;
        *last = *first == NONE ? NONE : *last;
    }
    return slot;
}

static void append_slot(struct conversion *c, uint32_t *first, uint32_t *last, uint32_t slot) {
    c->slots[slot].next = NONE;
    if (*last == NONE) {
        *first = slot;
    } else {
        c->slots[*last].next = slot;
    }
    *last = slot;
}

static uint32_t take_slot(struct conversion *c, uint32_t thread) {
    struct thread *mine = thread_at(c, thread);
    uint32_t slot = pop_slot(c, &mine->first_free, &mine->last_free);
    if (slot != NONE) {
        mine->free_count--;
        return slot;
    }
    slot = pop_slot(c, &c->first_free, &c->last_free);
    if (slot != NONE) {
        return slot;
    }
    if (c->header->slots == SLOTS_MOST) {
        tool_fail("more than %u blocks are live at once: too many for the format", SLOTS_MOST);
    }
    slot = c->header->slots++;
    c->slots = tool_grow(c->slots, &c->slot_room, c->header->slots, sizeof *c->slots);
    c->slots[slot] = (struct slot){.owner = thread, .next = NONE};
    return slot;
}

/* The last one freed is used first again, as allocators do; the others are in no hurry. */
static void give_slot(struct conversion *c, uint32_t thread, uint32_t slot) {
    struct thread *mine = thread_at(c, thread);
    if (mine->free_count >= OWN_FREE_MOST) {
        append_slot(c, &c->first_free, &c->last_free, slot);
        return;
    }
    c->slots[slot].next = mine->first_free;
    mine->first_free = slot;
    mine->last_free = mine->last_free == NONE ? slot : mine->last_free;
    mine->free_count++;
}

static void give_all_slots(struct conversion *c, uint32_t thread) {
    struct thread *mine = thread_at(c, thread);
    for (uint32_t slot; (slot = pop_slot(c, &mine->first_free, &mine->last_free)) != NONE;) {
        append_slot(c, &c->first_free, &c->last_free, slot);
    }
    mine->free_count = 0;
}

/* Emits a record that changes a slot, and counts the change. */
static void change_slot(struct conversion *c, uint32_t thread, uint32_t index,
                        struct trace_record record) {
    struct slot *slot = &c->slots[index];
    record.block = index;
    record.crossing = slot->owner != thread;
    record.generation = slot->generation;
    c->live += record.size - slot->size;
    c->header->live_peak = c->live > c->header->live_peak ? c->live : c->header->live_peak;
    c->header->calls++;
    slot->size = record.size;
    slot->owner = thread;
    slot->generation += record.operation == TRACE_REALLOC ? 2 : 1;
    put(c, thread, record);
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* A thread is started by the one whose record comes before its first. */
static void begin_thread(struct conversion *c, uint32_t thread) {
    struct thread *mine = thread_at(c, thread);
    mine->number = ++c->begun;
    mine->parent = c->begun > 1 ? c->previous : NONE;
    if (mine->parent != NONE) {
        put(c, c->previous, (struct trace_record){.operation = TRACE_START, .block = c->begun - 1});
    }
}

/* Its parent waits for it before the next thing it does, if it does anything more. */
static void end_thread(struct conversion *c, uint32_t thread) {
    uint32_t parent = thread_at(c, thread)->parent;
    if (parent != NONE) {
        thread_at(c, thread)->next_ended = thread_at(c, parent)->ended;
        thread_at(c, parent)->ended = thread;
    }
    give_all_slots(c, thread);
}

static void join_ended(struct conversion *c, uint32_t thread) {
    uint32_t ended = NONE;
    while ((ended = thread_at(c, thread)->ended) != NONE) {
        thread_at(c, thread)->ended = thread_at(c, ended)->next_ended;
        uint32_t number = thread_at(c, ended)->number - 1;
        put(c, thread, (struct trace_record){.operation = TRACE_JOIN, .block = number});
    }
}

/* ---- Records --------------------------------------------------------------------------------- */

static void on_allocated(struct conversion *c, const struct raw_record *raw) {
    static const unsigned char operations[] = {
        [RAW_MALLOC] = TRACE_MALLOC, [RAW_CALLOC] = TRACE_CALLOC, [RAW_ALIGNED] = TRACE_ALIGNED};
    uint32_t stale = NONE;
    /* An address that is live already was given back in a way that nobody saw. */
    if (addresses_take(&c->addresses, raw->address, &stale)) {
        change_slot(c, raw->thread, stale, (struct trace_record){.operation = TRACE_FREE});
        give_slot(c, raw->thread, stale);
        c->header->foreign++;
    }
    uint32_t slot = take_slot(c, raw->thread);
    change_slot(c, raw->thread, slot,
                (struct trace_record){.operation = operations[raw->operation],
                                      .alignment = (unsigned char)raw->alignment,
                                      .size = raw->size});
    addresses_add(&c->addresses, raw->address, slot);
}

static void on_freed(struct conversion *c, const struct raw_record *raw) {
    uint32_t slot = NONE;
    if (!addresses_take(&c->addresses, raw->address, &slot)) {
        c->header->foreign++;
        return;
    }
    change_slot(c, raw->thread, slot, (struct trace_record){.operation = TRACE_FREE});
    give_slot(c, raw->thread, slot);
}

static void on_reallocating(struct conversion *c, const struct raw_record *raw) {
    struct thread *mine = thread_at(c, raw->thread);
    mine->resizing_from = raw->address;
    mine->resizing_to = raw->size;
    if (!addresses_take(&c->addresses, raw->address, &mine->resizing)) {
        c->header->foreign++;
        mine->resizing = NONE;
    }
}

static void on_reallocated(struct conversion *c, const struct raw_record *raw) {
    struct thread mine = *thread_at(c, raw->thread);
    thread_at(c, raw->thread)->resizing = NONE;
    struct raw_record allocated = {
        .operation = RAW_MALLOC, .thread = raw->thread, .size = mine.resizing_to};
    allocated.address = raw->address;
    if (mine.resizing == NONE) {
        /* A block from before the recording: from here on it is known. */
        if (raw->address != 0) {
            on_allocated(c, &allocated);
        }
    } else if (raw->address != 0) {
        change_slot(c, raw->thread, mine.resizing,
                    (struct trace_record){.operation = TRACE_REALLOC, .size = mine.resizing_to});
        addresses_add(&c->addresses, raw->address, mine.resizing);
    } else if (mine.resizing_to == 0) {
        change_slot(c, raw->thread, mine.resizing, (struct trace_record){.operation = TRACE_FREE});
        give_slot(c, raw->thread, mine.resizing);
    } else {
        c->header->failed++;
        addresses_add(&c->addresses, mine.resizing_from, mine.resizing);
    }
}

static void on_time(struct conversion *c, const struct raw_record *raw) {
    struct thread *mine = thread_at(c, raw->thread);
    c->first_ns = c->first_ns == 0 || raw->time_ns < c->first_ns ? raw->time_ns : c->first_ns;
    uint64_t since = mine->time_ns != 0 ? mine->time_ns : c->first_ns;
    uint64_t passed = raw->time_ns > c->first_ns ? raw->time_ns - c->first_ns : 0;
    c->header->duration_ns = passed > c->header->duration_ns ? passed : c->header->duration_ns;
    put(c, raw->thread,
        (struct trace_record){.operation = TRACE_TIME,
                              .size = raw->time_ns > since ? raw->time_ns - since : 0});
    mine->time_ns = raw->time_ns > since ? raw->time_ns : since;
}

static void handle(struct conversion *c, const struct raw_record *raw) {
    if (thread_at(c, raw->thread)->number == 0) {
        begin_thread(c, raw->thread);
    }
    join_ended(c, raw->thread);
    switch (raw->operation) {
    case RAW_FREE:
        on_freed(c, raw);
        break;
    case RAW_REALLOC_BEGIN:
        on_reallocating(c, raw);
        break;
    case RAW_REALLOC_END:
        on_reallocated(c, raw);
        break;
    case RAW_TIME:
        on_time(c, raw);
        break;
    default:
        on_allocated(c, raw);
    }
    c->previous = raw->thread;
    if (raw->last) {
        end_thread(c, raw->thread);
    }
}

bool convert(const char *raw_path, const char *trace_path, struct trace_header *header) {
    struct conversion c = {.header = header, .first_free = NONE, .last_free = NONE};
    struct raw_record raw;
    *header = (struct trace_header){0};
    c.log = raw_open(raw_path);
    memcpy(header->command, raw_header(c.log)->command, sizeof header->command);
    tool_clean(header->command, sizeof header->command);
    header->flags = raw_header(c.log)->error != 0 ? TRACE_INCOMPLETE : 0;
    bool found = raw_next(c.log, &raw);
    if (found) {
        c.writer = writer_open(trace_path);
        do {
            handle(&c, &raw);
        } while (raw_next(c.log, &raw));
        writer_close(c.writer, header);
    }
    raw_close(c.log);
    addresses_drop(&c.addresses);
    tool_unmap(c.slots, c.slot_room * sizeof *c.slots);
    tool_unmap(c.threads, c.thread_room * sizeof *c.threads);
    return found;
}
