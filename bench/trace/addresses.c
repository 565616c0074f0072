/* SPDX-License-Identifier: MIT
 *
 * addresses.c: see addresses.h.
 */
#include "addresses.h"

#include "tool.h"

#define FIRST_SLOTS 4096

static size_t home(const struct addresses *table, uint64_t address) {
    return (size_t)((address >> 3) * 0x9e3779b97f4a7c15 >> 20) & (table->slots - 1);
}

static void insert(struct addresses *table, uint64_t address, uint32_t block) {
    size_t at = home(table, address);
    while (table->entries[at].address != 0) {
        at = (at + 1) & (table->slots - 1);
    }
    table->entries[at] = (struct address_entry){address, block};
}

static void double_size(struct addresses *table) {
    struct addresses larger = {.slots = table->slots ? 2 * table->slots : FIRST_SLOTS};
    larger.entries = tool_map(larger.slots * sizeof *larger.entries);
    larger.count = table->count;
    for (size_t i = 0; i < table->slots; i++) {
        if (table->entries[i].address != 0) {
            insert(&larger, table->entries[i].address, table->entries[i].block);
        }
    }
    addresses_drop(table);
    *table = larger;
}

void addresses_add(struct addresses *table, uint64_t address, uint32_t block) {
    if (2 * (table->count + 1) > table->slots) {
        double_size(table);
    }
    insert(table, address, block);
    table->count++;
}

/* Moves later entries of the same cluster up, so that no search ends too early at the gap. */
static void close_gap(struct addresses *table, size_t gap) {
    size_t mask = table->slots - 1;
    for (size_t at = (gap + 1) & mask; table->entries[at].address != 0; at = (at + 1) & mask) {
        size_t wanted = home(table, table->entries[at].address);
        if (((at - wanted) & mask) >= ((at - gap) & mask)) {
            table->entries[gap] = table->entries[at];
            gap = at;
        }
    }
    table->entries[gap].address = 0;
}

bool addresses_take(struct addresses *table, uint64_t address, uint32_t *block) {
    if (table->slots == 0 || address == 0) {
        return false;
    }
    size_t at = home(table, address);
    while (table->entries[at].address != address) {
        if (table->entries[at].address == 0) {
            return false;
        }
        at = (at + 1) & (table->slots - 1);
    }
    *block = table->entries[at].block;
    close_gap(table, at);
    table->count--;
    return true;
}

void addresses_drop(struct addresses *table) {
    tool_unmap(table->entries, table->slots * sizeof *table->entries);
    *table = (struct addresses){0};
}
