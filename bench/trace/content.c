/* SPDX-License-Identifier: MIT
 *
 * content.c: see content.h.
 */
#include "content.h"

#include <string.h>

#define WORD sizeof(uint64_t)
#define PAGE 4096

uint64_t content_key(uint32_t block, uint32_t generation) {
    uint64_t key = ((uint64_t)block << 32 | generation) * 0x9e3779b97f4a7c15;
    key ^= key >> 29;
    return key * 0xbf58476d1ce4e5b9 | 1;
}

/* The offset of the next word that is looked at: all of them, or one in each page and the last. */
static size_t next_word(size_t at, size_t size, bool all) {
    size_t last = (size - 1) / WORD * WORD;
    size_t next = all ? at + WORD : (at / PAGE + 1) * PAGE;
    return at < last && next > last ? last : next;
}

/* The last word of a block may be cut short. */
static size_t length_at(size_t at, size_t size) {
    return size - at < WORD ? size - at : WORD;
}

void content_write(unsigned char *at, size_t size, uint64_t key, bool all) {
    for (size_t i = 0; i < size; i = next_word(i, size, all)) {
        uint64_t word = key + i;
        memcpy(at + i, &word, length_at(i, size));
    }
}

static size_t first_wrong(const unsigned char *at, uint64_t word, size_t from, size_t length) {
    unsigned char right[WORD];
    memcpy(right, &word, WORD);
    size_t wrong = 0;
    while (wrong < length && at[from + wrong] == right[wrong]) {
        wrong++;
    }
    return from + wrong;
}

size_t content_check(const unsigned char *at, size_t size, size_t kept, uint64_t key, bool all) {
    for (size_t i = 0; i < kept; i = next_word(i, size, all)) {
        uint64_t word = key + i;
        size_t length = length_at(i, kept);
        if (memcmp(at + i, &word, length) != 0) {
            return first_wrong(at, word, i, length);
        }
    }
    return kept;
}

size_t content_check_zero(const unsigned char *at, size_t size, bool all) {
    static const unsigned char zeros[WORD];
    for (size_t i = 0; i < size; i = next_word(i, size, all)) {
        if (memcmp(at + i, zeros, length_at(i, size)) != 0) {
            return first_wrong(at, 0, i, length_at(i, size));
        }
    }
    return size;
}
