/* SPDX-License-Identifier: MIT
 *
 * quarantine: a queue of freed blocks, and a table to find them by address.
 *
 * PURPOSE  Keep memory from being handed out again for a while, and tell whether a block is free already.
 *
 * LAYOUT   A ring of entries, oldest first, and chains of them by a hash of the address, both of one size and
 *          outside the heap: what the program does to its blocks cannot reach them.  1.3 MiB, made
 *          when the first block comes; pages of it that were never used are not resident.
 *
 * RULE     A block may wait while the sum of lengths is at most the limit, and WAITING_MOST blocks do not.  A
 *          block larger than the limit does not wait: it would drive out all others.  Mappings are counted
 *          by themselves, for there may be so many and no more, the live ones included.
 *
 * LOCKING  One lock, under which nothing is called but meta_take.
 *
 * FORK     The ring is authoritative.  A block is written before `last` covers it, and `first` moves before
 *          it is given back: a cut leaks it (INV-FORK-1).
 *
 * FAILURE  Without memory for the table every block is refused: the caller gives it back at once.
 */
#include "quarantine.h"

#include "lock.h"
#include "meta.h"

#include <string.h>

enum { WAITING_MOST = 1 << 16, GRAIN = 16 };

/* next: 1 + the index of the next in the chain. */
struct entry {
    uintptr_t address;
    uint32_t grains;
    uint32_t next : 23, mapped : 1, fill : 8;
};

struct table {
    uint32_t chain[WAITING_MOST]; /* 1 + the index of the entry that came last */
    struct entry entry[WAITING_MOST];
};

static struct lock lock = LOCK_INITIALISER(LOCK_QUARANTINE);
static struct table *table;             /* guarded by lock, as all below */
static size_t first, last, held, limit; /* first, last: counted up for ever */
static size_t mappings;

static struct entry *entry_of(size_t number) {
    return &table->entry[number % WAITING_MOST];
}

static uint32_t *chain_of(uintptr_t address) {
    return &table->chain[(address / GRAIN * 0x9e3779b97f4a7c15u) >> 48];
}

static void link(struct entry *entry) {
    uint32_t *chain = chain_of(entry->address);
    entry->next = *chain & 0x7fffff;
    *chain = 1 + (uint32_t)(entry - table->entry);
}

/* The oldest of all is the last one of its chain. */
static void unlink_oldest(const struct entry *entry) {
    uint32_t *chain = chain_of(entry->address), index = 1 + (uint32_t)(entry - table->entry);
    if (*chain == index) {
        *chain = 0;
        return;
    }
    struct entry *before = &table->entry[*chain - 1];
    while (before->next != index)
        before = &table->entry[before->next - 1];
    before->next = 0;
}

static bool is_there(uintptr_t address) {
    for (uint32_t i = table ? *chain_of(address) : 0; i != 0; i = table->entry[i - 1].next)
        if (table->entry[i - 1].address == address)
            return true;
    return false;
}

static bool has_room(size_t bytes) {
    if (bytes > limit || bytes / GRAIN > UINT32_MAX || last - first == WAITING_MOST)
        return false;
    if (!table)
        table = meta_take(sizeof *table);
    return table != NULL;
}

static void append(const struct quarantined *block) {
    struct entry *entry = entry_of(last);
    *entry = (struct entry){.address = block->address,
                            .grains = (uint32_t)(block->bytes / GRAIN),
                            .mapped = block->mapped,
                            .fill = block->fill};
    link(entry);
    held += block->bytes;
    STORE_RELAXED(mappings, mappings + block->mapped);
    STORE_RELEASE(last, last + 1);
}

void quarantine_set_limit(size_t bytes) {
    lock_take(&lock);
    limit = bytes;
    lock_drop(&lock);
}

enum quarantine_answer quarantine_add(const struct quarantined *block) {
    enum quarantine_answer answer = QUARANTINE_KNOWN;
    lock_take(&lock);
    if (!is_there(block->address)) {
        answer = has_room(block->bytes) ? QUARANTINE_KEPT : QUARANTINE_REFUSED;
        if (answer == QUARANTINE_KEPT)
            append(block);
    }
    lock_drop(&lock);
    return answer;
}

bool quarantine_holds(const void *block) {
    lock_take(&lock);
    bool there = is_there((uintptr_t)block);
    lock_drop(&lock);
    return there;
}

bool quarantine_take(struct quarantined *out, bool all) {
    lock_take(&lock);
    bool due = first != last && (all || held > limit || last - first == WAITING_MOST);
    if (due) {
        const struct entry *entry = entry_of(first);
        *out = (struct quarantined){entry->address, (size_t)entry->grains * GRAIN, entry->fill,
                                    entry->mapped};
        unlink_oldest(entry);
        held -= out->bytes;
        STORE_RELAXED(mappings, mappings - out->mapped);
        STORE_RELEASE(first, first + 1);
    }
    lock_drop(&lock);
    return due;
}

size_t quarantine_mappings(void) {
    return LOAD_RELAXED(mappings);
}

void quarantine_repair(void) {
    if (!lock_broken(&lock))
        return;
    held = mappings = 0;
    if (table)
        memset(table->chain, 0, sizeof table->chain);
    for (size_t i = first; i != last; i++) {
        link(entry_of(i));
        held += (size_t)entry_of(i)->grains * GRAIN;
        mappings += entry_of(i)->mapped;
    }
    lock_repair(&lock);
}
