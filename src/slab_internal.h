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

/* Counts objects whose bits were set; a slab whose objects are all free closes. */
void slab_count_given(struct slab_class *class, unsigned class_index, struct slab *slab,
                      unsigned given);

/* True if every object that touches the page is free and in the slab. */
bool slab_page_is_free(const struct slab *slab, const struct size_class *shape, unsigned page);

#endif
