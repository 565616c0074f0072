/* SPDX-License-Identifier: MIT
 *
 * test_slab_random.c: random batches of all classes beside a model, with holes purged in between;
 * and what trimming does to slabs in detail.
 */
#include "unit_support.h"

#include "slab_internal.h"

enum { STEPS = 4000, LIVE_MAX = 20000 };

struct object {
    void *start;
    uint64_t seed;
};

static struct rng rng;
static struct object live[CLASS_COUNT][LIVE_MAX / 8]; /* in no order */
static unsigned live_count[CLASS_COUNT];
static bool flaky, wandering;

static unsigned random_class(void) {
    return (unsigned)rng_between(&rng, 1, CLASS_COUNT - 1);
}

static unsigned random_batch(unsigned class_index) {
    unsigned max = rng_below(&rng, 10) ? 8 : 100;
    unsigned room = (unsigned)COUNT_OF(live[0]) - live_count[class_index];
    unsigned batch = (unsigned)rng_between(&rng, 1, max);
    return batch < room ? batch : room;
}

static void take(unsigned class_index) {
    void *out[100];
    unsigned wanted = random_batch(class_index);
    size_t size = size_classes[class_index].size;
    unsigned got = wanted ? slab_take(class_index, out, wanted) : 0;
    must(got <= wanted && (got > 0 || wanted == 0 || flaky));
    for (unsigned i = 0; i < got; i++) {
        struct object *object = &live[class_index][live_count[class_index]++];
        must(out[i] && (uintptr_t)out[i] % SIZE_GRAIN == 0);
        *object = (struct object){out[i], rng_next(&rng)};
        shadow_live_add(out[i], size);
        pattern_fill(out[i], size, object->seed);
    }
}

/* Takes a random object out of the model, its pattern still right. */
static void *pick(unsigned class_index) {
    size_t size = size_classes[class_index].size;
    struct object *last = &live[class_index][--live_count[class_index]];
    struct object *chosen = &live[class_index][rng_below(&rng, live_count[class_index] + 1)];
    struct object object = *chosen;
    *chosen = *last;
    must(pattern_intact(object.start, size, object.seed, size));
    shadow_live_remove(object.start);
    return object.start;
}

static void give(unsigned class_index, unsigned most) {
    void *batch[LIVE_MAX / 8];
    unsigned count = 0, culprit = 0;
    while (count < most && live_count[class_index])
        batch[count++] = pick(class_index);
    must(slab_give(class_index, batch, count, &culprit) == SLAB_OK);
}

static void check_counts(void) {
    size_t live_bytes = 0;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        struct slab_counts counts;
        slab_count(i, &counts);
        must(counts.objects <= counts.slabs * size_classes[i].objects);
        must(counts.objects >= counts.slabs * size_classes[i].small_objects);
        must(counts.objects - counts.free_objects == live_count[i]);
        must(counts.partial_slabs <= counts.slabs && (live_count[i] || counts.slabs == 0));
        live_bytes += counts.pages << PAGE_SHIFT;
    }
    must(page_live_bytes() == live_bytes);
}

static void play(void) {
    rng.state = test_seed();
    for (size_t i = 0; i < STEPS; i++) {
        unsigned class_index = random_class(), dice = (unsigned)rng_below(&rng, 200);
        if (flaky)
            fake_os.fail_kinds = rng_below(&rng, 3) ? 0 : (unsigned)rng_next(&rng) & FAKE_ALL;
        if (wandering)
            slab_home.shard = (uint32_t)rng_below(&rng, slab_shard_count);
        if (dice == 0)
            slab_trim();
        else if (dice == 1)
            page_trim(0);
        else if (dice < 5)
            give(class_index, LIVE_MAX / 8);
        else if (dice < 110)
            take(class_index);
        else
            give(class_index, (unsigned)rng_between(&rng, 1, 16));
        must_hold(shadow_violation());
        if (i % 8 == 0)
            must_hold(slab_verify());
        if (i % 64 == 0) {
            must_hold(page_verify());
            check_counts();
        }
    }
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        give(i, LIVE_MAX / 8);
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void random_batches_match_the_model(void) {
    play();
}

static void random_batches_in_slabs_of_two_sizes(void) {
    slab_small_most = 2;
    play();
}

static void random_batches_where_anything_fails_at_times(void) {
    flaky = true;
    slab_small_most = 8;
    play();
}

static void random_batches_in_many_shards(void) {
    while (slab_shard_count < 5)
        slab_shard_waited(slab_home.shard);
    wandering = flaky = true;
    slab_small_most = 3;
    play();
}

static void random_batches_without_a_window(void) {
    fake_os.break_limit = 0;
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP_AT);
    play();
}

static void random_batches_with_large_pages(void) {
    fake_os.page_bytes = 64 * KIB;
    play();
}

/* ---- trimming ------------------------------------------------------------------------------------ */

enum { SMALL = 4 }; /* 64 bytes: 64 of them in a page */

/* Takes whole slabs, so that every object of them is live and dirty. */
static unsigned take_slabs(unsigned class_index, unsigned slabs, void **out) {
    unsigned count = slabs * size_classes[class_index].objects, got = 0;
    while (got < count)
        got += slab_take(class_index, out + got, count - got);
    for (unsigned i = 0; i < count; i++) {
        memset(out[i], 0xc3, size_classes[class_index].size);
        shadow_live_add(out[i], size_classes[class_index].size);
    }
    return count;
}

static void give_one(unsigned class_index, void *object) {
    unsigned culprit;
    shadow_live_remove(object);
    must(slab_give(class_index, &object, 1, &culprit) == SLAB_OK);
}

static size_t clean_bytes(unsigned class_index) {
    struct slab_counts counts;
    slab_count(class_index, &counts);
    return counts.clean_bytes;
}

/* Of each slab one object is kept: the pages that it touches stay, and all others go. */
static void holes_go_and_nothing_else(void) {
    static void *out[4 * SLAB_MAX_OBJECTS];
    for (unsigned class_index = 1; class_index < CLASS_COUNT; class_index++) {
        const struct size_class *shape = &size_classes[class_index];
        unsigned count = take_slabs(class_index, 4, out), first = 0, last = 0;
        size_t expected = 4 * shape->pages;
        for (unsigned i = 0; i < count; i++) {
            unsigned index = i % shape->objects, kept = i / shape->objects * 3 % shape->objects;
            if (index != kept) {
                give_one(class_index, out[i]);
                continue;
            }
            size_t offset = (size_t)(shape->objects - 1 - index) * shape->size;
            first = (unsigned)(offset >> PAGE_SHIFT);
            last = (unsigned)((offset + shape->size - 1) >> PAGE_SHIFT);
            expected -= last - first + 1;
        }
        size_t bytes = slab_trim();
        must(clean_bytes(class_index) == expected * PAGE_BYTES && bytes <= expected * PAGE_BYTES);
        must(slab_trim() == 0);
        must_hold(slab_verify());
        for (unsigned i = 0; i < count; i++) {
            const unsigned char *object = out[i];
            if (i % shape->objects != i / shape->objects * 3 % shape->objects)
                continue;
            must(object[0] == 0xc3 && memcmp(object, object + 1, shape->size - 1) == 0);
            give_one(class_index, out[i]);
        }
        must_hold(shadow_violation());
    }
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void a_trimmed_page_is_zero_and_comes_back(void) {
    void *out[SLAB_MAX_OBJECTS];
    unsigned count = take_slabs(SMALL, 1, out);
    const size_t page = 64; /* objects */
    must(count == 255);
    for (unsigned i = 63; i < 127; i++)
        give_one(SMALL, out[i]);
    uintptr_t hole = (uintptr_t)out[126];
    must(hole % PAGE_BYTES == 0 && slab_trim() == PAGE_BYTES && clean_bytes(SMALL) == PAGE_BYTES);
    must(fake_resident_bytes((void *)hole, PAGE_BYTES) == 0);
    must(fake_os.count[FAKE_PURGE] == 1);
    for (unsigned i = 0; i < page; i++) {
        unsigned char *object = NULL;
        must(slab_take(SMALL, (void **)&object, 1) == 1);
        must((uintptr_t)object == hole + i * page && all_zero(object, 64));
        must(clean_bytes(SMALL) == 0);
    }
    must_be_sound();
}

static void a_page_that_is_not_purged_is_not_clean(void) {
    void *out[SLAB_MAX_OBJECTS];
    take_slabs(SMALL, 1, out);
    for (unsigned i = 0; i < 200; i++)
        give_one(SMALL, out[i]);
    fake_os.fail_kinds = FAKE_BIT(FAKE_PURGE);
    must(slab_trim() == 0 && clean_bytes(SMALL) == 0);
    must_be_sound();
    fake_os.fail_kinds = 0;
    must(slab_trim() == 3 * PAGE_BYTES);
    for (unsigned i = 200; i < 255; i++)
        give_one(SMALL, out[i]);
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void larger_pages_are_left_alone(void) {
    void *out[SLAB_MAX_OBJECTS];
    fake_os.page_bytes = 16 * KIB;
    take_slabs(SMALL, 1, out);
    for (unsigned i = 0; i < 254; i++)
        give_one(SMALL, out[i]);
    must(slab_trim() == 0 && fake_os.count[FAKE_PURGE] == 0);
    must_be_sound();
}

/* Fresh memory is not resident before it is used, and is not purged again. */
static void what_was_never_touched_is_not_trimmed(void) {
    void *object;
    must(slab_take(SMALL, &object, 1) == 1);
    must(clean_bytes(SMALL) == 3 * PAGE_BYTES);
    must(slab_trim() == 0 && fake_os.count[FAKE_PURGE] == 0);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(random_batches_match_the_model),
        body_test(random_batches_in_slabs_of_two_sizes),
        body_test(random_batches_where_anything_fails_at_times),
        body_test(random_batches_in_many_shards),
        body_test(random_batches_without_a_window),
        body_test(random_batches_with_large_pages),
        body_test(holes_go_and_nothing_else),
        body_test(a_trimmed_page_is_zero_and_comes_back),
        body_test(a_page_that_is_not_purged_is_not_clean),
        body_test(larger_pages_are_left_alone),
        body_test(what_was_never_touched_is_not_trimmed),
    };
    slab_small_most = 0; /* but where a test says otherwise */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
