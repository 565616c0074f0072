/* SPDX-License-Identifier: MIT
 *
 * harden.h: blocks that are filled, watched and kept from reuse: the slow mode of heap.c and resize.c.
 *
 * harden_modes is 0 where nothing of this was asked for; only then do the fast paths run.
 */
#ifndef QUARRY_HARDEN_H
#define QUARRY_HARDEN_H

#include "base.h"

enum { HARDEN_FILL = 1, HARDEN_CANARY = 2, HARDEN_QUARANTINE = 4, HARDEN_GUARD = 8 };
enum { CANARY_BYTES = 16 };

extern unsigned harden_modes __attribute__((visibility("hidden")));

static inline bool harden_has(unsigned modes) {
    return UNLIKELY(LOAD_RELAXED(harden_modes) & modes);
}

/* What a block is longer by than what is asked for. */
static inline size_t harden_extra(void) {
    return harden_has(HARDEN_CANARY) ? CANARY_BYTES : 0;
}

/* As heap_allocate_aligned and heap_allocate_zero; sizes of any number. */
void *harden_allocate(size_t align, size_t size);
void *harden_allocate_zero(size_t size);

void harden_free(void *block, const char *function);

/* What the program may use of a live block, which with canaries is what it asked for; false, and reported,
 * where it is none or was written beyond. */
bool harden_size(const void *block, const char *function, size_t *size);

/* Whether a block that passed harden_size may stay where it is with another size; then it has it. */
bool harden_stays(void *block, size_t size);

/* Gives back all that waits; returns whether there was any. */
bool harden_flush(void);

/* Parameters, see option.c.  Canaries and guards are for all blocks or for none: before the first. */
void harden_set_perturb(unsigned byte);
void harden_set_zero(bool on);
void harden_set_quarantine(size_t bytes);
void harden_begin_canaries(void);
void harden_begin_guards(size_t from_bytes);

#endif
