/* SPDX-License-Identifier: MIT
 *
 * test_slab_kept.c: where there is more than one shard a class keeps some slabs that have become empty.
 */
#include "unit_support.h"

#include "page.h"
#include "quarry.h"
#include "slab_internal.h"

enum { CLASS = 20, SLABS = 80 };

static struct slab_counts counts;
static void *out[SLABS * SLAB_MAX_OBJECTS];
static unsigned each, culprit;

static size_t slabs(void) {
    slab_count_in(0, CLASS, &counts);
    must_hold(slab_verify());
    return counts.slabs;
}

static void give(unsigned first, unsigned count) {
    must(slab_give(CLASS, out + first, count, &culprit) == SLAB_OK);
}

/* Objects of SLABS slabs, those of each slab together; the calling thread takes from shard 0 of so many. */
static void take_slabs(uint32_t shards) {
    for (unsigned i = 0; slab_shard_count < shards; i++) {
        must(i < 1000000);
        slab_shard_waited(slab_home.shard);
    }
    slab_home.shard = slab_home.lane = 0;
    each = size_classes[CLASS].objects;
    for (unsigned i = 0; i < SLABS; i++)
        must(slab_take(CLASS, out + i * each, each) == each);
    must(slabs() == SLABS && counts.free_objects == 0);
}

static void one_shard_keeps_nothing(void) {
    take_slabs(1);
    give(0, each);
    must(slabs() == SLABS - 1);
}

/* Up to an eighth of the class; what is beyond it closes, and in the end all. */
static void an_eighth_is_kept(void) {
    take_slabs(2);
    for (unsigned i = 1; i < SLABS / 8; i++) {
        give((i - 1) * each, each);
        must(slabs() == SLABS && counts.free_objects == i * each);
    }
    for (unsigned i = SLABS / 8; i <= SLABS; i++) {
        give((i - 1) * each, each);
        must(slabs() <= SLABS - 1 && counts.free_objects * 8 < counts.objects + each * 8);
    }
    must(slabs() == 0 && page_live_bytes() == 0);
}

/* So it is where other slabs are free in part: of those that were kept as many close for them as have to. */
static void others_count_as_well(void) {
    take_slabs(2);
    give(0, 5 * each);
    must(slabs() == SLABS);
    for (unsigned i = 5; i < SLABS; i++)
        give(i * each, each / 10);
    must(slabs() == SLABS); /* nothing has become empty since */
    give(5 * each + each / 10, each - each / 10);
    must(slabs() < SLABS - 1 && slabs() > SLABS - 6);
    must(counts.free_objects * 8 < counts.objects);
    must((counts.free_objects + each) * 8 >= counts.objects + each);
}

/* They are taken from when there is nothing else, and not closed with what was taken. */
static void kept_ones_are_used_last(void) {
    take_slabs(2);
    give(3 * each, each);
    give(7 * each, 2);
    give(11 * each, each);
    must(slabs() == SLABS && counts.free_objects == 2 * each + 2);
    void *again[2], *more[2 * SLAB_MAX_OBJECTS];
    must(slab_take(CLASS, again, 2) == 2);
    must((again[0] == out[7 * each] && again[1] == out[7 * each + 1]) ||
         (again[1] == out[7 * each] && again[0] == out[7 * each + 1]));
    must(slab_take(CLASS, more, 2 * each) == 2 * each);
    must(slabs() == SLABS && counts.free_objects == 0);
    must(slab_give(CLASS, more, 2 * each, &culprit) == SLAB_OK);
    must(slabs() == SLABS && counts.free_objects == 2 * each);
}

static void a_trim_closes_them(void) {
    take_slabs(2);
    give(0, 6 * each);
    must(slabs() == SLABS);
    slab_trim();
    must(slabs() == SLABS - 6 && counts.free_objects == 0);
    must_be_sound();
}

/* So does who finds no memory for something else. */
static void they_close_where_memory_is_short(void) {
    take_slabs(2);
    must(!slab_close_empty());
    give(0, 6 * each);
    give(7 * each, 1);
    must(slabs() == SLABS && slab_close_empty());
    must(slabs() == SLABS - 6 && counts.free_objects == 1);
    must(!slab_close_empty());
    must_be_sound();
}

/* A block of another size that has room in them alone. */
static void a_block_gets_their_memory(void) {
    take_slabs(2);
    fake_os.fail_kinds = FAKE_MEMORY;
    void *block;
    while ((block = quarry_malloc(100000)) != NULL) /* whatever is free otherwise */
        continue;
    give(0, 9 * each);
    must(slabs() == SLABS);
    block = quarry_malloc(100000);
    must(block);
    must(slabs() < SLABS);
    fake_os.fail_kinds = 0;
    must_be_sound();
}

/* Who bounds what is dirty has them counted. */
static void a_threshold_keeps_none(void) {
    page_set_trim_threshold((size_t)64 << 20);
    take_slabs(2);
    give(0, 6 * each);
    must(slabs() == SLABS - 6);
}

/* Another shard that needs a slab gets an empty one first. */
static void they_are_lent_first(void) {
    take_slabs(2);
    give(2 * each, each);
    give(5 * each, each);
    for (unsigned i = 20; i < SLABS; i++)
        give(i * each, each / 4);
    must(slabs() == SLABS);
    void *object;
    slab_home.shard = 1;
    must(slab_take(CLASS, &object, 1) == 1);
    must(object == out[2 * each + each - 1] || object == out[5 * each + each - 1]);
    must(slabs() == SLABS - 1);
    must(slab_give(CLASS, &object, 1, &culprit) == SLAB_OK);
    must_be_sound();
}

/* After a cut they are last again. */
static void a_repair_finds_them(void) {
    take_slabs(2);
    give(each - 1, 1);
    give(each, 5 * each);
    struct slab_class *class = slab_class_in(0, CLASS);
    class->lock.word = 0x1000; /* of a thread that is gone */
    class->partial = NULL;
    slab_repair();
    must(slabs() == SLABS && counts.free_objects == 5 * each + 1);
    void *object;
    must(slab_take(CLASS, &object, 1) == 1 && object == out[each - 1]);
    give(6 * each, (SLABS - 6) * each);
    give(0, each);
    must(slabs() == 0);
    must_be_sound();
}

static void broken_links_are_named(void) {
    take_slabs(2);
    give(0, 1);
    give(each, 1);
    struct slab *first = slab_class_in(0, CLASS)->partial, *last = first->prev;
    must(first != last && first->next == last);
    first->prev = first;
    must(strcmp(slab_verify(), "INV-SLAB-2") == 0);
    first->prev = last;
    last->prev = last;
    must(strcmp(slab_verify(), "INV-SLAB-2") == 0);
    last->prev = first;
    must_hold(slab_verify());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(one_shard_keeps_nothing),
        body_test(an_eighth_is_kept),
        body_test(others_count_as_well),
        body_test(kept_ones_are_used_last),
        body_test(a_trim_closes_them),
        body_test(a_threshold_keeps_none),
        body_test(they_close_where_memory_is_short),
        body_test(a_block_gets_their_memory),
        body_test(they_are_lent_first),
        body_test(a_repair_finds_them),
        body_test(broken_links_are_named),
    };
    slab_small_most = 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
