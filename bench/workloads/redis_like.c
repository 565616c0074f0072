/* SPDX-License-Identifier: MIT
 *
 * redis-like: a table of keys and values of mixed sizes, rewritten, extended, read and expired.
 *
 * One thread, as such servers have. Each entry is three blocks: a node, a key, a value whose size
 * may change; the table of chains grows by moving to one of twice the length. Each command also
 * allocates the query's text and the reply for a moment. In the end most entries have expired.
 */
#include "workload.h"

#define COMMANDS 5000000
#define KEYS 150000
#define TABLE_FIRST 64
#define EXPIRED_OF_TEN 8

struct entry {
    void *node, *key, *value;
};

static struct {
    struct entry *entries; /* by number of the key */
    void *table;
    size_t filled, table_slots;
    size_t keys;
} store;

static void setup(void) {
    store.keys = workload_scaled(KEYS);
    store.entries = workload_reserve(store.keys * sizeof *store.entries);
}

/* Most values are short; a few are documents. */
static size_t draw_value_size(struct worker *worker) {
    uint32_t luck = draw_below(worker, 1000);
    if (luck < 700) {
        return 8 + draw_below(worker, 120);
    }
    return luck < 990 ? draw_size(worker, 128, 2048) : draw_size(worker, 2048, 65536);
}

/* The old table stays until the new one is filled, as in incremental rehashing. */
static void grow_table(struct worker *worker) {
    size_t slots = store.table_slots ? 2 * store.table_slots : TABLE_FIRST;
    void *larger = block_new_zeroed(worker, slots * sizeof(void *));
    block_drop(worker, store.table);
    store.table = larger;
    store.table_slots = slots;
}

static void drop_entry(struct worker *worker, struct entry *entry) {
    if (entry->node != NULL) {
        block_drop(worker, entry->value);
        block_drop(worker, entry->key);
        block_drop(worker, entry->node);
        *entry = (struct entry){0};
        store.filled--;
    }
}

static void set_value(struct worker *worker, struct entry *entry) {
    if (entry->node == NULL) {
        entry->node = block_new(worker, 24);
        entry->key = block_new(worker, 12 + draw_below(worker, 36));
        if (store.filled++ >= store.table_slots) {
            grow_table(worker);
        }
    }
    void *replaced = entry->value;
    entry->value = block_new(worker, draw_value_size(worker));
    block_drop(worker, replaced);
}

static void append(struct worker *worker, struct entry *entry) {
    if (entry->node == NULL) {
        set_value(worker, entry);
    }
    size_t size = block_size(entry->value) + 1 + draw_below(worker, 64);
    /* Doubled, as strings that grow are, until it is long. */
    size += size < 4096 ? size : 4096;
    if (size <= 1 << 20) {
        entry->value = block_resize(worker, entry->value, size);
    }
}

static void read_value(struct worker *worker, const struct entry *entry) {
    if (entry->node != NULL) {
        block_check(entry->value);
        block_drop(worker, block_new(worker, block_size(entry->value) + 16));
    }
}

static void do_command(struct worker *worker) {
    struct entry *entry = &store.entries[draw_below(worker, (uint32_t)store.keys)];
    uint32_t command = draw_below(worker, 100);
    void *query = block_new(worker, 32 + draw_below(worker, 96));
    if (command < 35) {
        set_value(worker, entry);
    } else if (command < 43) {
        append(worker, entry);
    } else if (command < 55) {
        drop_entry(worker, entry);
    } else {
        read_value(worker, entry);
    }
    block_drop(worker, query);
}

static void work(struct worker *worker) {
    size_t commands = workload_scaled(COMMANDS);
    for (size_t i = 0; i < commands; i++) {
        do_command(worker);
    }
    for (size_t i = 0; i < store.keys; i++) {
        if (draw_below(worker, 10) < EXPIRED_OF_TEN) {
            drop_entry(worker, &store.entries[i]);
        }
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < store.keys; i++) {
        drop_entry(worker, &store.entries[i]);
    }
    block_drop(worker, store.table);
}

const struct workload workload = {
    .name = "redis-like",
    .about = "A table of keys and values of mixed sizes, rewritten, read and expired.",
    .threads = 1,
    .minimum = 1,
    .maximum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
