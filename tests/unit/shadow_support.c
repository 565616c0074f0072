/* SPDX-License-Identifier: MIT
 *
 * shadow_support: the books of the fake address space, as two sorted arrays of intervals.
 *
 * The caller serialises all calls but those about live blocks, which have a lock of their own so
 * that tests may call them beside the allocator.
 */
#include "shadow_support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SPANS = 1 << 16, MAX_LIVE = 1 << 18 };

struct span {
    uintptr_t start, end;
    enum owner owner;
};

/* Disjoint, sorted, never OWNER_NONE; neighbours that touch have different owners. */
static struct span spans[MAX_SPANS];
static size_t span_count;

static struct span live[MAX_LIVE];
static size_t live_count;
static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;

static char violation[200];

/* The index of the first interval that ends above an address. */
static size_t first_above(const struct span *array, size_t count, uintptr_t address) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (array[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void make_room(struct span *array, size_t *count, size_t maximum, size_t at) {
    if (*count == maximum) {
        fprintf(stderr, "# the books of the fake address space are full\n");
        abort();
    }
    memmove(array + at + 1, array + at, (*count - at) * sizeof *array);
    (*count)++;
}

static void take_out(struct span *array, size_t *count, size_t at) {
    (*count)--;
    memmove(array + at, array + at + 1, (*count - at) * sizeof *array);
}

/* Makes an address a boundary between spans. */
static void split_at(uintptr_t address) {
    size_t i = first_above(spans, span_count, address);
    if (i == span_count || spans[i].start >= address)
        return;
    make_room(spans, &span_count, MAX_SPANS, i);
    spans[i].end = spans[i + 1].start = address;
}

static void merge_at(uintptr_t address) {
    size_t i = first_above(spans, span_count, address);
    if (i == 0 || i == span_count || spans[i - 1].end != address || spans[i].start != address ||
        spans[i - 1].owner != spans[i].owner)
        return;
    spans[i - 1].end = spans[i].end;
    take_out(spans, &span_count, i);
}

void shadow_set(uintptr_t start, uintptr_t end, enum owner owner) {
    if (start >= end)
        return;
    split_at(start);
    split_at(end);
    size_t i = first_above(spans, span_count, start);
    while (i < span_count && spans[i].start < end)
        take_out(spans, &span_count, i);
    if (owner == OWNER_NONE)
        return;
    make_room(spans, &span_count, MAX_SPANS, i);
    spans[i] = (struct span){start, end, owner};
    merge_at(end);
    merge_at(start);
}

enum owner shadow_at(uintptr_t address) {
    size_t i = first_above(spans, span_count, address);
    return i < span_count && spans[i].start <= address ? spans[i].owner : OWNER_NONE;
}

bool shadow_all(uintptr_t start, uintptr_t end, enum owner owner) {
    size_t i = first_above(spans, span_count, start);
    if (owner == OWNER_NONE)
        return i == span_count || spans[i].start >= end;
    return i < span_count && spans[i].start <= start && spans[i].end >= end &&
           spans[i].owner == owner;
}

bool shadow_ours(uintptr_t start, uintptr_t end) {
    size_t i = first_above(spans, span_count, start);
    for (; start < end; start = spans[i++].end)
        if (i == span_count || spans[i].start > start || spans[i].owner == OWNER_FOREIGN)
            return false;
    return true;
}

uintptr_t shadow_gap(uintptr_t low, uintptr_t high, size_t bytes, size_t align) {
    for (size_t i = span_count;; i--) {
        uintptr_t bottom = i ? spans[i - 1].end : 0;
        if (bottom < low)
            bottom = low;
        if (bottom < high && high - bottom >= bytes) {
            uintptr_t start = (high - bytes) & ~(uintptr_t)(align - 1);
            if (start >= bottom)
                return start;
        }
        if (i == 0 || spans[i - 1].start <= low)
            return 0;
        if (spans[i - 1].start < high)
            high = spans[i - 1].start;
    }
}

size_t shadow_bytes(enum owner owner) {
    size_t bytes = 0;
    for (size_t i = 0; i < span_count; i++)
        if (spans[i].owner == owner)
            bytes += spans[i].end - spans[i].start;
    return bytes;
}

/* ---- live blocks ------------------------------------------------------------------------------- */

static bool overlaps_live(uintptr_t start, uintptr_t end) {
    size_t i = first_above(live, live_count, start);
    return start < end && i < live_count && live[i].start < end;
}

void shadow_live_add(const void *block, size_t bytes) {
    uintptr_t start = (uintptr_t)block, end = start + (bytes ? bytes : 1);
    pthread_mutex_lock(&live_lock);
    if (overlaps_live(start, end))
        shadow_violate("handed out twice", start, end);
    else if (!shadow_ours(start, end))
        shadow_violate("handed out, and not the allocator's", start, end);
    else {
        size_t i = first_above(live, live_count, start);
        make_room(live, &live_count, MAX_LIVE, i);
        live[i] = (struct span){start, end, OWNER_NONE};
    }
    pthread_mutex_unlock(&live_lock);
}

void shadow_live_remove(const void *block) {
    uintptr_t start = (uintptr_t)block;
    pthread_mutex_lock(&live_lock);
    size_t i = first_above(live, live_count, start);
    if (i < live_count && live[i].start == start)
        take_out(live, &live_count, i);
    else
        shadow_violate("removed, and not live", start, start);
    pthread_mutex_unlock(&live_lock);
}

bool shadow_live_in(uintptr_t start, uintptr_t end) {
    pthread_mutex_lock(&live_lock);
    bool found = overlaps_live(start, end);
    pthread_mutex_unlock(&live_lock);
    return found;
}

/* ---- violations -------------------------------------------------------------------------------- */

void shadow_violate(const char *what, uintptr_t start, uintptr_t end) {
    if (!*violation)
        snprintf(violation, sizeof violation, "%s: [0x%zx, 0x%zx)", what, (size_t)start,
                 (size_t)end);
}

const char *shadow_violation(void) {
    return violation;
}

void shadow_forget_violation(void) {
    *violation = 0;
}
