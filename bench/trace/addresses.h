/* SPDX-License-Identifier: MIT
 *
 * addresses.h: which block lies at an address now.
 */
#ifndef TRACE_ADDRESSES_H
#define TRACE_ADDRESSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address_entry {
    uint64_t address; /* 0: empty */
    uint32_t block;
};

/* A hash table with linear probing, at most half full. Starts as all zeros. */
struct addresses {
    struct address_entry *entries;
    size_t slots, count;
};

/* The address, not 0, must not be in the table. */
void addresses_add(struct addresses *table, uint64_t address, uint32_t block);
/* Removes the address and gives its block; false if it is not there. */
bool addresses_take(struct addresses *table, uint64_t address, uint32_t *block);
void addresses_drop(struct addresses *table);

#endif /* TRACE_ADDRESSES_H */
