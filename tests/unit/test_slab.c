/* SPDX-License-Identifier: MIT
 *
 * test_slab.c: objects taken and given in batches; what is said of wrong pointers; refusals; repair;
 * slab_verify with one fault planted at a time.
 */
#include "unit_support.h"

#include "slab.h"

#include <stdlib.h>

static struct slab_counts counts;

static void *take_one(unsigned class_index) {
    void *object = NULL;
    must(slab_take(class_index, &object, 1) == 1 && object);
    return object;
}

static enum slab_status give_one(unsigned class_index, void *object) {
    unsigned culprit = 77;
    enum slab_status status = slab_give(class_index, &object, 1, &culprit);
    must(status == SLAB_OK || culprit == 0);
    return status;
}

static struct slab *slab_of(const void *object) {
    uint32_t head = pagemap_head((uintptr_t)object);
    must(head_kind(head) == HEAD_SLAB);
    return pagemap_slab(pagemap_region((uintptr_t)object), head);
}

/* Where a fault matters, what was never touched is no dirty memory when the slab closes. */
static void a_slab_that_closes_keeps_its_clean_pages_clean(void) {
    struct page_counts before, after;
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    unsigned class_index = sizeclass_for(1024);
    page_count(&before);
    must(give_one(class_index, take_one(class_index)) == SLAB_OK);
    page_count(&after);
    must(after.dirty_bytes - before.dirty_bytes == PAGE_BYTES);
    must_be_sound();
}

static void batches_come_from_one_slab_in_order(void) {
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        void *out[SLAB_MAX_OBJECTS];
        const struct size_class *shape = &size_classes[i];
        unsigned count = slab_take(i, out, shape->objects);
        must(count == shape->objects);
        uintptr_t base = slab_of(out[0])->base;
        for (unsigned k = 0; k < count; k++) /* the lowest is the last, for it is popped first */
            must((uintptr_t)out[k] == base + (size_t)(count - 1 - k) * shape->size);
        slab_count(i, &counts);
        must(counts.slabs == 1 && counts.free_objects == 0 && counts.partial_slabs == 0);
        must_hold(slab_verify());
        unsigned culprit;
        must(slab_give(i, out, count, &culprit) == SLAB_OK);
        slab_count(i, &counts);
        must(counts.slabs == 0 && counts.objects == 0 && counts.free_objects == 0);
        must_hold(slab_verify());
    }
    must(page_live_bytes() == 0);
    must_be_sound();
}

/* The first slabs of a class have few pages, those after them as many as its others; so it is again when it
 * was empty. */
static void a_class_begins_with_small_slabs(void) {
    enum { SMALL = 3 };
    static void *out[(SMALL + 1) * SLAB_MAX_OBJECTS];
    slab_small_most = SMALL;
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        for (unsigned again = 0; again < 2; again++) {
            const struct size_class *shape = &size_classes[i];
            unsigned count = 0, many = SMALL * shape->small_objects + 1u, culprit;
            while (count < many)
                count += slab_take(i, out + count, many - count);
            slab_count(i, &counts);
            must(counts.slabs == SMALL + 1);
            must(counts.objects == (size_t)SMALL * shape->small_objects + shape->objects);
            must(counts.pages == (size_t)SMALL * shape->small_pages + shape->pages);
            must(page_live_bytes() == counts.pages << PAGE_SHIFT);
            must_be_sound();
            must(slab_give(i, out, count, &culprit) == SLAB_OK);
            must(page_live_bytes() == 0);
        }
    must_be_sound();
}

/* The end of a small slab is not that of the others of its class. */
static void the_tail_of_a_small_slab_is_told(void) {
    slab_small_most = 1;
    unsigned told = 0;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *shape = &size_classes[i];
        char *object = take_one(i), *base = (char *)slab_of(object)->base;
        char *tail = base + (size_t)shape->small_objects * shape->size;
        if (tail < base + shape->small_pages * PAGE_BYTES) {
            must(give_one(i, tail) == SLAB_TAIL);
            must(!slab_is_taken((uintptr_t)tail));
            told++;
        }
        must(give_one(i, base + shape->small_pages * PAGE_BYTES) == SLAB_FOREIGN);
        must(give_one(i, object) == SLAB_OK);
    }
    must(told > 10);
    must_be_sound();
}

static void a_batch_may_be_larger_than_a_slab(void) {
    enum { MANY = 1000 };
    static void *out[MANY];
    unsigned count = 0, culprit;
    while (count < MANY)
        count += slab_take(20, out + count, MANY - count);
    for (unsigned k = 0; k < MANY; k++)
        shadow_live_add(out[k], size_classes[20].size);
    slab_count(20, &counts);
    must(counts.objects - counts.free_objects == MANY);
    must_be_sound();
    for (unsigned k = 0; k < MANY; k++)
        shadow_live_remove(out[k]);
    must(slab_give(20, out, MANY, &culprit) == SLAB_OK);
    must(page_live_bytes() == 0);
    must_be_sound();
}

/* What was given last is taken first, from the slab that is listed first. */
static void freed_objects_are_taken_again(void) {
    void *first = take_one(9), *second = take_one(9), *third = take_one(9);
    must(give_one(9, second) == SLAB_OK);
    must(take_one(9) == second);
    must(give_one(9, third) == SLAB_OK && give_one(9, first) == SLAB_OK);
    must(take_one(9) == first && take_one(9) == third); /* lowest first */
    must_be_sound();
}

/* ---- wrong pointers ------------------------------------------------------------------------------ */

static void wrong_pointers_are_told_apart(void) {
    static int foreign;
    bool zero;
    char *run = (char *)page_run_take(3, PAGE_BYTES, &zero);
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *shape = &size_classes[i];
        char *object = take_one(i), *other = take_one(i % 64 + 1), *freed = take_one(i);
        must(give_one(i, freed) == SLAB_OK);
        slab_count(i, &counts);
        size_t free_objects = counts.free_objects;
        char *base = (char *)slab_of(object)->base;
        char *tail = base + (size_t)shape->objects * shape->size;

        must(give_one(i, NULL) == SLAB_FOREIGN);
        must(give_one(i, &foreign) == SLAB_FOREIGN);
        must(give_one(i, run) == SLAB_FOREIGN);
        must(give_one(i, run + 2 * PAGE_BYTES) == SLAB_FOREIGN);
        must(give_one(i, (void *)UINTPTR_MAX) == SLAB_FOREIGN);
        must(give_one(i, other) == SLAB_FOREIGN);
        must(give_one(i, object + 1) == SLAB_INTERIOR);
        must(give_one(i, object + 8) == SLAB_INTERIOR);
        must(give_one(i, object + shape->size - 1) == SLAB_INTERIOR);
        must(give_one(i, freed) == SLAB_FREE);
        must(give_one(i, tail - shape->size) == SLAB_FREE); /* never taken */
        if (tail < base + shape->pages * PAGE_BYTES) {
            must(give_one(i, tail) == SLAB_TAIL);
            must(give_one(i, base + shape->pages * PAGE_BYTES - 1) == SLAB_TAIL);
        }
        slab_count(i, &counts);
        must(counts.free_objects == free_objects);
        must(give_one(i, object) == SLAB_OK && give_one(i % 64 + 1, other) == SLAB_OK);
        must_hold(slab_verify());
    }
    must_be_sound();
}

static void a_batch_stops_at_the_first_wrong_one(void) {
    void *out[8];
    unsigned culprit = 77;
    must(slab_take(5, out, 8) == 8);
    void *batch[] = {out[0], out[1], (char *)out[2] + 4, out[3]};
    must(slab_give(5, batch, 4, &culprit) == SLAB_INTERIOR && culprit == 2);
    slab_count(5, &counts);
    must(counts.objects - counts.free_objects == 6);
    void *twice[] = {out[3], out[4], out[3], out[5]};
    must(slab_give(5, twice, 4, &culprit) == SLAB_FREE && culprit == 2);
    void *never[] = {&culprit, out[5]};
    must(slab_give(5, never, 2, &culprit) == SLAB_FOREIGN && culprit == 0);
    slab_count(5, &counts);
    must(counts.objects - counts.free_objects == 4);
    must(slab_give(5, out, 0, &culprit) == SLAB_OK);
    must_be_sound();
}

/* Objects first, first + step, ... of those that out[] has in the order of their addresses. */
static unsigned pick(void **batch, void *const *out, unsigned count, unsigned first, int step) {
    unsigned picked = 0;
    for (int i = (int)first; i >= 0 && i < (int)count; i += step)
        batch[picked++] = out[i];
    return picked;
}

enum { TWO_SLABS = 2 * SLAB_MAX_OBJECTS };

static int by_address(const void *a, const void *b) {
    const char *left = *(char *const *)a, *right = *(char *const *)b;
    return (left > right) - (left < right);
}

/* All objects of the first two slabs of a class, in the order of their addresses. */
static unsigned take_two_slabs(unsigned class_index, void **out) {
    unsigned each = size_classes[class_index].objects;
    for (unsigned i = 0; i < 2; i++)
        must(slab_take(class_index, out + i * each, each) == each);
    qsort(out, 2 * each, sizeof *out, by_address);
    return 2 * each;
}

/* Up, down, and every second or third object; over the ends of words and, where slabs have no tail, of slabs. */
static void objects_in_a_row_are_given(void) {
    static const int steps[] = {1, -1, 2, -2, 3};
    static void *out[TWO_SLABS], *batch[TWO_SLABS];
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        for (unsigned s = 0; s < 5; s++) {
            unsigned count = take_two_slabs(i, out), culprit;
            unsigned from = steps[s] > 0 ? 1 : count - 2; /* the slabs stay */
            unsigned picked = pick(batch, out, count - (steps[s] > 0), from, steps[s]);
            must(picked <= count - 1 && picked >= count / 3 - 1);
            must(slab_give(i, batch, picked, &culprit) == SLAB_OK && culprit == picked);
            slab_count(i, &counts);
            must(counts.objects - counts.free_objects == count - picked);
            for (unsigned k = 0; k < picked; k++)
                must(!slab_is_taken((uintptr_t)batch[k]));
            must_hold(slab_verify());
            for (unsigned k = 0; k < count; k++)
                if (slab_is_taken((uintptr_t)out[k]))
                    must(give_one(i, out[k]) == SLAB_OK);
            slab_count(i, &counts);
            must(counts.slabs == 0);
        }
    must_be_sound();
}

/* What is wrong in a row is named, all before it is given, and nothing after it. */
static void a_row_stops_at_the_first_wrong_one(void) {
    static const int steps[] = {1, -1};
    static void *out[TWO_SLABS], *batch[TWO_SLABS];
    for (unsigned s = 0; s < 2; s++)
        for (unsigned wrong = 1; wrong < 70; wrong++) {
            unsigned count = take_two_slabs(2, out), culprit;
            unsigned picked = pick(batch, out, count, steps[s] > 0 ? 5 : count - 5, steps[s]);
            must(give_one(2, batch[wrong]) == SLAB_OK);
            must(slab_give(2, batch, picked, &culprit) == SLAB_FREE && culprit == wrong);
            slab_count(2, &counts);
            must(counts.objects - counts.free_objects == count - wrong - 1);
            must(slab_is_taken((uintptr_t)batch[wrong + 1]));
            must_hold(slab_verify());
            for (unsigned k = 0; k < count; k++)
                if (slab_is_taken((uintptr_t)out[k]))
                    must(give_one(2, out[k]) == SLAB_OK);
        }
    must_be_sound();
}

/* A row that goes on behind the last object of a slab, where there is room for one more. */
static void a_row_ends_with_the_slab(void) {
    static void *out[TWO_SLABS], *batch[4];
    unsigned count = take_two_slabs(1, out), each = count / 2, culprit;
    char *last = out[each - 1];
    must((uintptr_t)last + 32 == slab_of(last)->base + size_classes[1].pages * PAGE_BYTES);
    for (int k = 0; k < 4; k++)
        batch[k] = last + (k - 2) * 16;
    must(slab_give(1, batch, 4, &culprit) == SLAB_TAIL && culprit == 3);
    must(slab_give(1, out, each - 3, &culprit) == SLAB_OK);
    slab_count(1, &counts);
    must(counts.slabs == 1 && counts.free_objects == 0);
    must_be_sound();
}

/* A batch that empties a slab and then names one of its objects again. */
static void an_object_of_a_closed_slab_is_foreign(void) {
    void *out[2], *culprit_of[3];
    unsigned culprit = 77;
    must(slab_take(64, out, 2) == 2);
    void *elsewhere = take_one(63);
    culprit_of[0] = out[0], culprit_of[1] = out[1], culprit_of[2] = out[0];
    must(slab_give(64, culprit_of, 3, &culprit) == SLAB_FREE && culprit == 2);
    must(give_one(64, out[0]) == SLAB_FOREIGN);
    must(give_one(63, elsewhere) == SLAB_OK);
    must_be_sound();
}

static void an_address_is_told_its_object(void) {
    static int foreign;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *shape = &size_classes[i];
        char *object = take_one(i);
        uintptr_t found = 1, base = slab_of(object)->base;
        bool is_free = true;
        must(slab_around((uintptr_t)object + shape->size - 1, &found, &is_free) == i);
        must(found == (uintptr_t)object && !is_free);
        must(slab_around((uintptr_t)object + shape->size, &found, &is_free) == i);
        must(found == (uintptr_t)object + shape->size && is_free);
        uintptr_t tail = base + (size_t)shape->objects * shape->size;
        if (tail < base + shape->pages * PAGE_BYTES)
            must(slab_around(tail, &found, &is_free) == i && found == 0);
        must(give_one(i, object) == SLAB_OK);
        must(slab_around((uintptr_t)object, &found, &is_free) == 0);
        must(slab_around((uintptr_t)&foreign, &found, &is_free) == 0);
    }
}

/* ---- refusals ------------------------------------------------------------------------------------ */

static void without_memory_what_there_is_is_given(void) {
    void *out[SLAB_MAX_OBJECTS];
    unsigned culprit;
    take_one(64);
    page_trim(0);
    fake_os.fail_kinds = FAKE_MEMORY;
    unsigned left = size_classes[64].objects - 1u;
    must(slab_take(64, out, SLAB_MAX_OBJECTS) == left);
    must(slab_take(64, out + left, 1) == 0);
    must(slab_take(1, out + left, 1) == 0);
    must_be_sound();
    must(slab_give(64, out, left, &culprit) == SLAB_OK);
    must(slab_take(64, out, 1) == 1);
    fake_os.fail_kinds = 0;
    must(slab_take(1, out, 1) == 1);
    must_be_sound();
}

/* Freed memory of one size serves another. */
static void pages_of_one_class_serve_another(void) {
    static void *out[4096];
    unsigned count = 0, culprit;
    while (count < 4096)
        count += slab_take(10, out + count, 4096 - count);
    must(slab_give(10, out, count, &culprit) == SLAB_OK);
    fake_os.fail_kinds = FAKE_MEMORY;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        void *object = take_one(i);
        memset(object, 1, size_classes[i].size);
        must(give_one(i, object) == SLAB_OK);
    }
    must_be_sound();
}

/* ---- repair -------------------------------------------------------------------------------------- */

static void lists_and_counters_are_rebuilt_from_bits(void) {
    enum { MANY = 600 };
    void *out[MANY];
    unsigned count = 0;
    while (count < MANY)
        count += slab_take(33, out + count, MANY - count);
    for (unsigned k = 0; k < MANY; k += 3)
        must(give_one(33, out[k]) == SLAB_OK);
    struct slab_counts before;
    slab_count(33, &before);
    struct slab_class *class = &slab_classes[33];
    for (struct slab *slab = class->partial; slab; slab = slab->next)
        slab->free_count = 99;
    class->partial->next = NULL;
    class->slabs = 3;
    class->free_objects = 12345;
    pagemap_set_class(slab_of(out[1])->base, size_classes[33].pages, 0);
    class->lock.word = 0x1000; /* nobody's */
    slab_repair();
    must_be_sound();
    slab_count(33, &counts);
    must(memcmp(&before, &counts, sizeof counts) == 0);
    for (unsigned k = 0; k < MANY; k++)
        must(k % 3 == 0 || give_one(33, out[k]) == SLAB_OK);
    must(page_live_bytes() == 0);
    must_be_sound();
}

/* ---- faults -------------------------------------------------------------------------------------- */

static void must_break(const char *invariant) {
    const char *broken = slab_verify();
    if (strcmp(broken, invariant) != 0) {
        fprintf(stderr, "# \"%s\" instead of %s\n", broken, invariant);
        must(false);
    }
}

static void planted_faults_are_named(void) {
    const unsigned index = 40;
    struct slab_class *class = &slab_classes[index];
    struct slab *slab = slab_of(take_one(index));
    unsigned last = size_classes[index].objects;
    must(last < SLAB_MAX_OBJECTS);
    must_break("");

    slab->free_count++;
    must_break("INV-SLAB-1");
    slab->free_count--;
    slab->word[0] ^= 2; /* an object leaves without being counted */
    must_break("INV-SLAB-1");
    slab->word[0] ^= 2;
    slab->word[last / 64] |= (uint64_t)1 << last % 64; /* an object in the tail */
    slab->free_count++;
    class->free_objects++;
    must_break("INV-SLAB-1");
    slab->word[last / 64] &= ~((uint64_t)1 << last % 64);
    slab->free_count--;
    class->free_objects--;

    slab->shard = 1;
    must_break("INV-SLAB-5");
    class->partial = NULL;
    must_break("INV-SLAB-5");
    slab->shard = 0;
    class->partial = NULL;
    must_break("INV-SLAB-2");
    class->partial = slab;

    uint32_t clean = slab->clean_pages;
    slab->clean_pages |= 1;
    must_break("INV-SLAB-3");
    slab->clean_pages = clean;

    class->slabs++;
    must_break("INV-SLAB-4");
    class->slabs--;
    class->free_objects--;
    must_break("INV-SLAB-4");
    class->free_objects++;
    must_break("");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(batches_come_from_one_slab_in_order),
        body_test(a_slab_that_closes_keeps_its_clean_pages_clean),
        body_test(a_class_begins_with_small_slabs),
        body_test(the_tail_of_a_small_slab_is_told),
        body_test(a_batch_may_be_larger_than_a_slab),
        body_test(freed_objects_are_taken_again),
        body_test(wrong_pointers_are_told_apart),
        body_test(a_batch_stops_at_the_first_wrong_one),
        body_test(objects_in_a_row_are_given),
        body_test(a_row_stops_at_the_first_wrong_one),
        body_test(a_row_ends_with_the_slab),
        body_test(an_object_of_a_closed_slab_is_foreign),
        body_test(an_address_is_told_its_object),
        body_test(without_memory_what_there_is_is_given),
        body_test(pages_of_one_class_serve_another),
        body_test(lists_and_counters_are_rebuilt_from_bits),
        body_test(planted_faults_are_named),
    };
    slab_small_most = 0; /* but where a test says otherwise */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
