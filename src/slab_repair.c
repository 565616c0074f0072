/* SPDX-License-Identifier: MIT
 *
 * slab_repair: figures of the slab layer, its repair after a fork, and its verification.
 *
 * FORK     Authoritative are the words of the descriptors that a head word names.  Lists, counters
 *          and the class map are made anew for each class whose lock was broken.
 */
#include "slab_internal.h"

/* Slabs are small or not: who knows their number and that of their objects knows how many are. */
static size_t pages_of(const struct slab_class *class, const struct size_class *shape) {
    size_t missing = class->slabs * shape->objects - class->objects;
    size_t small = missing ? missing / (size_t)(shape->objects - shape->small_objects) : 0;
    return (class->slabs - small) * shape->pages + small * shape->small_pages;
}

void slab_count_in(uint32_t shard, unsigned class_index, struct slab_counts *counts) {
    struct slab_class *class = slab_class_in(shard, class_index);
    *counts = (struct slab_counts){0};
    lock_take(&class->lock);
    counts->slabs = class->slabs;
    counts->objects = class->objects;
    counts->pages = pages_of(class, &size_classes[class_index]);
    counts->free_objects = class->free_objects;
    for (const struct slab *slab = class->partial; slab; slab = slab->next) {
        counts->partial_slabs++;
        counts->clean_bytes += (size_t)__builtin_popcount(slab->clean_pages) << PAGE_SHIFT;
    }
    lock_drop(&class->lock);
}

void slab_count(unsigned class_index, struct slab_counts *counts) {
    *counts = (struct slab_counts){0};
    for (uint32_t shard = 0; shard < LOAD_ACQUIRE(slab_shard_count); shard++) {
        struct slab_counts here;
        slab_count_in(shard, class_index, &here);
        slab_counts_add(counts, &here);
    }
}

static unsigned count_bits(const struct slab *slab) {
    unsigned bits = 0;
    for (unsigned word = 0; word < SLAB_WORDS; word++)
        bits += (unsigned)__builtin_popcountll(slab->word[word]);
    return bits;
}

/* The slab a slot holds, if it is in use: the page map has the last word. */
static bool slot_is_slab(struct region *region, uint32_t slot) {
    const struct slab *slab = &region->slab[slot];
    return slab->class_index != 0 && pagemap_head(slab->base) == head_make(HEAD_SLAB, slot);
}

static void rebuild_class(struct slab_class *class, unsigned class_index) {
    class->partial = NULL;
    class->slabs = class->objects = class->free_objects = 0;
    class->holes_outstanding = 0; /* and no more is charged for them */
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_ranked(rank);
        for (uint32_t slot = 0; slot < region->slots_used; slot++) {
            struct slab *slab = &region->slab[slot];
            if (slab->class_index != class_index || slab->shard != class->shard ||
                !slot_is_slab(region, slot))
                continue;
            slab->free_count = (uint8_t)count_bits(slab);
            pagemap_set_class(slab->base,
                              sizeclass_pages(&size_classes[class_index], slab->objects),
                              class_index);
            class->slabs++;
            class->objects += slab->objects;
            class->free_objects += slab->free_count;
            if (slab->free_count == slab->objects)
                slab_list_append(class, slab);
            else if (slab->free_count)
                slab_list_push(class, slab);
        }
    }
}

void slab_repair(void) {
    for (uint32_t shard = 0; shard < slab_shard_count; shard++)
        for (unsigned i = 1; i < CLASS_COUNT; i++) {
            struct slab_class *class = slab_class_in(shard, i);
            if (lock_broken(&class->lock)) {
                rebuild_class(class, i);
                lock_repair(&class->lock);
            }
        }
}

/* Whether a bit is set for an object that the slab does not have. */
static bool has_bits_past_end(const struct slab *slab, unsigned objects) {
    for (unsigned word = 0; word < SLAB_WORDS; word++) {
        unsigned here = objects > word * 64 ? objects - word * 64 : 0;
        if (slab->word[word] & ~bit_mask(here))
            return true;
    }
    return false;
}

static const char *verify_slab(const struct slab *slab, size_t *free_objects) {
    const struct size_class *shape = &size_classes[slab->class_index];
    unsigned bits = count_bits(slab);
    *free_objects += bits;
    if (bits != slab->free_count || has_bits_past_end(slab, slab->objects))
        return "INV-SLAB-1";
    for (unsigned page = 0; page < sizeclass_pages(shape, slab->objects); page++)
        if (((slab->clean_pages >> page) & 1) && !slab_page_is_free(slab, shape, page))
            return "INV-SLAB-3";
    return "";
}

/* How many slabs are listed; SIZE_MAX where one of another shard or class is, SIZE_MAX - 1 where links disagree. */
static size_t count_listed(const struct slab_class *class, unsigned class_index) {
    const struct slab *first = class->partial, *last = NULL;
    size_t listed = 0;
    for (const struct slab *slab = first; slab; last = slab, slab = slab->next, listed++) {
        if (slab->shard != class->shard || slab->class_index != class_index)
            return SIZE_MAX;
        if (last && slab->prev != last)
            return SIZE_MAX - 1;
    }
    return first && first->prev != last ? SIZE_MAX - 1 : listed;
}

static const char *verify_class(const struct slab_class *class, unsigned class_index) {
    size_t slabs = 0, objects = 0, free_objects = 0, listed = count_listed(class, class_index);
    if (listed == SIZE_MAX)
        return "INV-SLAB-5";
    if (listed == SIZE_MAX - 1)
        return "INV-SLAB-2";
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++)
        for (uint32_t slot = 0; slot < pagemap_ranked(rank)->slots_used; slot++) {
            const struct slab *slab = &pagemap_ranked(rank)->slab[slot];
            if (slab->class_index != class_index || !slot_is_slab(pagemap_ranked(rank), slot))
                continue;
            if (slab->shard >= slab_shard_count)
                return "INV-SLAB-5";
            if (slab->shard != class->shard)
                continue;
            slabs++;
            objects += slab->objects;
            listed -= slab->free_count != 0;
            const char *broken = verify_slab(slab, &free_objects);
            if (*broken)
                return broken;
        }
    if (slabs != class->slabs || objects != class->objects || free_objects != class->free_objects)
        return "INV-SLAB-4";
    return listed == 0 ? "" : "INV-SLAB-2";
}

const char *slab_verify(void) {
    const char *broken = "";
    for (uint32_t shard = 0; shard < LOAD_ACQUIRE(slab_shard_count); shard++)
        for (unsigned i = 1; i < CLASS_COUNT && !*broken; i++) {
            struct slab_class *class = slab_class_in(shard, i);
            lock_take(&class->lock);
            broken = verify_class(class, i);
            lock_drop(&class->lock);
        }
    return broken;
}
