/* SPDX-License-Identifier: MIT
 *
 * slab_internal.h: what the files of the slab layer share.  Nobody else includes it.  The class's
 * lock is held for all of it.
 */
#ifndef QUARRY_SLAB_INTERNAL_H
#define QUARRY_SLAB_INTERNAL_H

#include "slab.h"

void slab_list_push(struct slab_class *class, struct slab *slab);
void slab_list_remove(struct slab_class *class, struct slab *slab);

/* Closes a slab whose objects are all free; false, and nothing done, if it has others. */
bool slab_close_if_free(struct slab_class *class, unsigned class_index, struct slab *slab);

/* Counts objects whose bits were set; a slab whose objects are all free closes. */
void slab_count_given(struct slab_class *class, unsigned class_index, struct slab *slab,
                      unsigned given);

/* True if every object that touches the page is free and in the slab. */
bool slab_page_is_free(const struct slab *slab, const struct size_class *shape, unsigned page);

/* Whether a class has fallen so far that it should be searched for holes now; if so the caller
 * calls slab_trim_class when it holds no lock. */
bool slab_has_fallen(struct slab_class *class, const struct size_class *shape);
size_t slab_trim_class(unsigned class_index);

/* Pages that count as clean were touched: up to the number purged, that was in vain. */
void slab_holes_retaken(struct slab_class *class, size_t pages);

static inline size_t slab_live(const struct slab_class *class, const struct size_class *shape) {
    return class->slabs * shape->objects - class->free_objects;
}

#endif
