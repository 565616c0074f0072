/* SPDX-License-Identifier: MIT
 *
 * check.c
 *
 * PURPOSE  Goes through a trace as its threads would, in turns, each as far as it gets.
 *
 * INVARIANTS
 *          One order is enough. Each record changes one generation of one slot into the next, and
 *          which one follows from its thread's own records, or stands in it. If in this order each
 *          finds what it needs, no other can bring a different record to the same generation; and
 *          a thread that may go on may always do so, whatever the others do meanwhile.
 */
#include "check.h"

#include "tool.h"

#define NOBODY UINT32_MAX

struct checked_slot {
    uint32_t generation;
    uint32_t owner; /* thread of the last change */
};

enum phase { NOT_BEGUN, RUNNING, ENDED };

struct checked_thread {
    enum phase phase;
    bool waiting; /* with `ahead` for something to happen */
    struct trace_cursor cursor;
    struct trace_record ahead;
};

struct check {
    const struct trace *trace;
    struct checked_slot *slots;
    struct checked_thread *threads;
    uint32_t *running; /* numbers of threads */
    uint32_t running_count, begun;
    uint64_t done;
};

static void begin(struct check *check, uint32_t thread) {
    struct checked_thread *it = &check->threads[thread];
    it->phase = RUNNING;
    trace_begin(check->trace, &it->cursor, thread);
    check->running[check->running_count++] = thread;
    check->begun++;
}

static _Noreturn void fail(const struct check *check, uint32_t thread, const char *what) {
    trace_fail(check->trace, &check->threads[thread].cursor, what);
}

/* False if another thread has to change the slot first. */
static bool change_slot(struct check *check, uint32_t thread, const struct trace_record *record) {
    struct checked_slot *slot = &check->slots[record->block];
    bool needs_live = record->operation == TRACE_FREE || record->operation == TRACE_REALLOC;
    if (record->crossing && slot->generation < record->generation) {
        return false;
    }
    if (record->crossing ? slot->generation != record->generation
                         : slot->owner != thread && slot->owner != NOBODY) {
        fail(check, thread, "a block that another thread has changed meanwhile");
    }
    if (slot->generation % 2 != needs_live) {
        fail(check, thread,
             needs_live ? "a block that is not live" : "a block that is live already");
    }
    slot->generation += record->operation == TRACE_REALLOC ? 2 : 1;
    slot->owner = thread;
    return true;
}

/* False if the record has to wait. */
static bool take_step(struct check *check, uint32_t thread, const struct trace_record *record) {
    switch (record->operation) {
    case TRACE_START:
        if (check->threads[record->block].phase != NOT_BEGUN) {
            fail(check, thread, "a thread that begins twice");
        }
        begin(check, record->block);
        return true;
    case TRACE_JOIN:
        return check->threads[record->block].phase == ENDED;
    case TRACE_TIME:
        return true;
    default:
        return change_slot(check, thread, record);
    }
}

/* Runs the thread until it has to wait or ends. Returns whether it got any further. */
static bool run(struct check *check, uint32_t thread) {
    struct checked_thread *it = &check->threads[thread];
    for (bool any = false;; any = true) {
        if (!it->waiting && !trace_next(check->trace, &it->cursor, &it->ahead)) {
            it->phase = ENDED;
            trace_end(&it->cursor);
            return true;
        }
        it->waiting = !take_step(check, thread, &it->ahead);
        if (it->waiting) {
            return any;
        }
        if (++check->done % 65536 == 0) {
            tool_progress("checking", check->done, check->trace->header.records);
        }
    }
}

static void run_all(struct check *check) {
    while (check->running_count > 0) {
        bool any = false;
        uint32_t left = 0;
        /* The count grows where a thread begins another. */
        for (uint32_t i = 0; i < check->running_count; i++) {
            uint32_t thread = check->running[i];
            any = run(check, thread) || any;
            if (check->threads[thread].phase != ENDED) {
                check->running[left++] = thread;
            }
        }
        check->running_count = left;
        if (!any) {
            fail(check, check->running[0], "a thread that waits for what never happens");
        }
    }
}

void check_trace(const struct trace *trace) {
    const struct trace_header *header = &trace->header;
    struct check check = {.trace = trace};
    check.slots = tool_map(header->slots * sizeof *check.slots);
    check.threads = tool_map(header->threads * sizeof *check.threads);
    check.running = tool_map(header->threads * sizeof *check.running);
    for (uint32_t i = 0; i < header->slots; i++) {
        check.slots[i].owner = NOBODY;
    }
    begin(&check, 0);
    run_all(&check);
    tool_progress_end();
    if (check.begun != header->threads) {
        tool_fail("%s: damaged: %u of its %u threads never begin; record or convert it again",
                  trace->path, header->threads - check.begun, header->threads);
    }
    tool_unmap(check.slots, header->slots * sizeof *check.slots);
    tool_unmap(check.threads, header->threads * sizeof *check.threads);
    tool_unmap(check.running, header->threads * sizeof *check.running);
}
