/* SPDX-License-Identifier: MIT
 *
 * test_slab_shard.c: shards are made when threads wait for each other, up to the limit; slabs change
 * their shard, and objects find it.
 */
#include "contend.h"
#include "unit_support.h"

#include "meta.h"

enum { CLASS = 20, OTHER = 40 };

static struct slab_counts counts;
static unsigned culprit;

static struct slab *slab_of(const void *object) {
    uint32_t head = pagemap_head((uintptr_t)object);
    must(head_kind(head) == HEAD_SLAB);
    return pagemap_slab(pagemap_region((uintptr_t)object), head);
}

static void wait_at_home(unsigned times) {
    for (unsigned i = 0; i < times; i++)
        slab_shard_waited(slab_home.shard);
}

/* Shards are there, and the calling thread takes from shard 0. */
static void make_shards(uint32_t count) {
    for (unsigned i = 0; slab_shard_count < count; i++) {
        must(i < 1000000);
        wait_at_home(1);
    }
    slab_home.shard = slab_home.lane = 0;
}

static void take(uint32_t shard, void **out, unsigned count) {
    slab_home.shard = shard;
    for (unsigned got = 0; got < count;) {
        unsigned more = slab_take(CLASS, out + got, count - got);
        must(more > 0);
        got += more;
    }
}

static size_t slabs_in(uint32_t shard) {
    slab_count_in(shard, CLASS, &counts);
    return counts.slabs;
}

/* ---- growth -------------------------------------------------------------------------------------- */

static void threads_that_wait_get_a_shard(void) {
    struct contender contender;
    must(contender_start(&contender));
    must(slab_shard_count == 1);
    contend(&contender);
    must(contender.shard == 0 && slab_shard_count == 1); /* once is not enough */
    for (unsigned i = 0; contender.shard == 0; i++) {
        must(i < 10000);
        contend(&contender);
    }
    must(contender.shard == 1 && slab_shard_count == 2 && slab_home.shard == 0);
    must(contender_end(&contender));
    must_be_sound();
}

/* What two threads do to each other now and then is not worth a shard. */
static void rare_waits_do_not_count(void) {
    void *object;
    for (unsigned i = 0; i < 1000; i++) {
        for (unsigned k = 0; k < 500; k++)
            must(slab_take(CLASS, &object, 1) == 1 &&
                 slab_give(CLASS, &object, 1, &culprit) == SLAB_OK);
        wait_at_home(1);
    }
    must(slab_shard_count == 1 && slab_home.shard == 0);
}

static void waits_elsewhere_do_not_count(void) {
    make_shards(2);
    for (unsigned i = 0; i < 10000; i++)
        slab_shard_waited(1);
    must(slab_home.shard == 0);
}

/* What a thread waits for decides what it takes elsewhere. */
static void lane_and_home_move_apart(void) {
    make_shards(2);
    slab_home = (struct slab_home){.lane = 1};
    for (unsigned i = 0; slab_home.lane == 1; i++) {
        must(i < 10000);
        slab_lane_waited(0);
    }
    must(slab_home.shard == 0 && slab_home.lane <= slab_shard_count);
    uint32_t lane = slab_home.lane;
    for (unsigned i = 0; slab_home.shard == 0; i++) {
        must(i < 10000);
        wait_at_home(1);
    }
    must(slab_home.lane == lane);
}

/* Threads get the numbers of shards that exist, and all the same where there may be one. */
static void lanes_are_given_in_turn(void) {
    uint32_t all = 0;
    slab_set_shard_max(1);
    for (unsigned i = 0; i < 20; i++) {
        uint32_t lane = 0;
        slab_home = (struct slab_home){0};
        slab_enter(&lane);
        must(lane == 1 && slab_home.lane == 1 && slab_shard_count == 1);
    }
    slab_set_shard_max(3);
    for (unsigned i = 0; i < 20; i++) {
        uint32_t lane = 0;
        slab_home = (struct slab_home){0};
        slab_enter(&lane);
        must(lane >= 1 && lane <= slab_shard_count && slab_home.lane == lane);
        all |= 1u << lane;
    }
    must(slab_shard_count <= 3 && slab_shard_count == (unsigned)__builtin_popcount(all));
    uint32_t kept = 1;
    slab_home = (struct slab_home){0};
    slab_enter(&kept);
    must(slab_home.lane == 1);
}

/* A thread looks at all that there are before it makes one. */
static void shards_are_tried_in_turn(void) {
    make_shards(4);
    slab_home = (struct slab_home){0};
    for (uint32_t shard = 1; shard < 4; shard++) {
        for (unsigned i = 0; slab_home.shard == shard - 1; i++) {
            must(i < 10000);
            wait_at_home(1);
        }
        must(slab_home.shard == shard && slab_shard_count == 4);
    }
    for (unsigned i = 0; slab_home.shard == 3; i++) {
        must(i < 10000);
        wait_at_home(1);
    }
    must(slab_home.shard == 4 && slab_shard_count == 5);
}

static void the_limit_is_kept(void) {
    static const struct {
        size_t max, test;
        unsigned processors;
        uint32_t shards;
    } limit[] = {{1, 8, 4, 1},   {3, 1, 1, 3},   {3, 50, 1, 3},   {0, 1, 1, 8},
                 {0, 8, 1, 8},   {0, 12, 1, 12}, {0, 1, 0, 16},   {0, 1, 3, 24},
                 {40, 8, 1, 40}, {0, 60, 1, 60}, {1000, 1, 1, 64}};
    for (unsigned i = 0; i < COUNT_OF(limit); i++) {
        slab_set_shard_max(limit[i].max);
        slab_set_shard_test(limit[i].test);
        fake_os.processors = limit[i].processors;
        wait_at_home(200000);
        must(slab_shard_count == limit[i].shards);
        must(slab_home.shard < slab_shard_count);
    }
    slab_set_shard_max(2); /* what was made stays */
    wait_at_home(200000);
    must(slab_shard_count == 64);
}

static void without_memory_there_is_no_shard(void) {
    while (meta_take_ready(META_BLOCK_MAX))
        if (fake_os.fail_kinds == 0)
            fake_os.fail_kinds = FAKE_MEMORY;
    while (meta_take_ready(64))
        continue;
    wait_at_home(10000);
    must(slab_shard_count == 1 && slab_home.shard == 0);
    fake_os.fail_kinds = 0;
    wait_at_home(10000);
    must(slab_shard_count > 1);
    must_be_sound();
}

/* A fork cut its maker before it was counted. */
static void a_shard_that_was_cut_is_found(void) {
    make_shards(3);
    struct slab_class *made = slab_shards[2];
    slab_shard_count = 2;
    make_shards(3);
    must(slab_shards[2] == made);
    must_be_sound();
}

/* ---- slabs that change their shard ------------------------------------------------------------- */

static void a_slab_is_taken_over_before_one_is_opened(void) {
    enum { MANY = 3000 };
    static void *out[MANY];
    void *object;
    make_shards(3);
    take(0, out, MANY);
    size_t slabs = slabs_in(0);
    for (unsigned i = 1; i < MANY; i += 2) {
        slab_home.shard = i % 3;
        must(slab_give(CLASS, &out[i], 1, &culprit) == SLAB_OK);
    }
    must(slabs_in(0) == slabs && slabs_in(1) == 0 && slabs_in(2) == 0);
    must_be_sound();
    for (unsigned i = 1; i < MANY; i += 2) {
        slab_home.shard = 1 + i % 3 % 2;
        must(slab_take(CLASS, &object, 1) == 1);
        out[i] = object;
        must(slab_of(object)->shard == slab_home.shard);
    }
    must(slabs_in(1) > 0 && slabs_in(2) > 0);
    slab_count(CLASS, &counts);
    must(counts.slabs <= slabs + 2); /* the last one was left to who used it last */
    must(counts.objects - counts.free_objects == MANY);
    must_be_sound();
    must(slab_give(CLASS, out, MANY, &culprit) == SLAB_OK);
    slab_count(CLASS, &counts);
    must(counts.slabs == 0 && page_live_bytes() == 0);
    must_be_sound();
}

/* A shard of which less than an eighth is free needs that itself. */
static void few_free_objects_are_left_to_their_shard(void) {
    enum { MANY = 3000 };
    static void *out[MANY], *own[SLAB_MAX_OBJECTS + 1];
    unsigned objects = size_classes[CLASS].objects;
    make_shards(2);
    take(0, out, MANY);
    size_t slabs = slabs_in(0), all = counts.objects, given = 0;
    for (; (counts.free_objects + 1) * 8 < all; slab_count_in(0, CLASS, &counts), given++)
        must(slab_give(CLASS, &out[given * 7], 1, &culprit) == SLAB_OK);
    must(given > 300);
    take(1, own, 1);
    must(slabs_in(0) == slabs && slabs_in(1) == 1);
    must(slab_give(CLASS, &out[given * 7], 1, &culprit) == SLAB_OK);
    take(1, own + 1, objects); /* one more than its own slab has left */
    must(slabs_in(0) == slabs - 1 && slabs_in(1) == 2);
    must_be_sound();
}

/* The last slab of a shard is left to it once, and taken if nobody used it until the next time. */
static void the_last_slab_goes_when_nobody_uses_it(void) {
    void *first[2], *own[SLAB_MAX_OBJECTS];
    unsigned objects = size_classes[CLASS].objects;
    make_shards(2);
    take(0, first, 2);
    take(1, own, objects);
    must(slabs_in(0) == 1 && slabs_in(1) == 1);
    must(slab_give(CLASS, &first[0], 1, &culprit) == SLAB_OK); /* that is use */
    take(1, own, objects);
    must(slabs_in(0) == 1 && slabs_in(1) == 2);
    take(1, own, 1);
    must(slabs_in(0) == 0 && slabs_in(1) == 3);
    must(slab_of(own[0]) == slab_of(first[1]));
    must_be_sound();
}

/* By whoever holds the lock of the other shard for long. */
static void a_slab_in_use_is_not_waited_for(void) {
    void *out[3], *own;
    make_shards(2);
    take(0, out, 3);
    slab_classes[CLASS].in_use = 0;
    slab_classes[CLASS].lock.word = 0x1000; /* somebody's */
    take(1, &own, 1);
    slab_classes[CLASS].lock.word = 0;
    must(slabs_in(0) == 1 && slabs_in(1) == 1);
    must_be_sound();
}

/* How far a class has fallen is judged alike wherever its slabs are. */
static void the_peak_moves_along(void) {
    void *out[SLAB_MAX_OBJECTS], *own;
    make_shards(2);
    unsigned objects = size_classes[CLASS].objects;
    take(0, out, objects);
    must(slab_give(CLASS, out, objects / 2, &culprit) == SLAB_OK);
    slab_classes[CLASS].in_use = 0;
    take(1, &own, 1);
    struct slab_class *class = &slab_shards[1][CLASS];
    must(slab_classes[CLASS].high_live == objects / 2);
    must(class->high_live == objects - objects / 2 + 1);
    must_be_sound();
}

static void holes_are_found_in_each_shard(void) {
    enum { LARGE = 64 };
    void *out[2][SLAB_MAX_OBJECTS];
    unsigned objects = size_classes[LARGE].objects;
    make_shards(2);
    for (uint32_t shard = 0; shard < 2; shard++) {
        slab_home.shard = shard;
        must(slab_take(LARGE, out[shard], objects) == objects);
        for (unsigned i = 0; i < objects; i++)
            memset(out[shard][i], 1, size_classes[LARGE].size);
    }
    for (uint32_t shard = 0; shard < 2; shard++)
        must(slab_give(LARGE, out[shard], objects - 1, &culprit) == SLAB_OK);
    size_t bytes = slab_trim();
    must(bytes >= 2 * (objects - 2) * (size_classes[LARGE].size & ~(PAGE_BYTES - 1)));
    must_be_sound();
    for (uint32_t shard = 0; shard < 2; shard++)
        must(slab_give(LARGE, &out[shard][objects - 1], 1, &culprit) == SLAB_OK);
    must(page_live_bytes() == 0);
    must_be_sound();
}

/* ---- batches ------------------------------------------------------------------------------------- */

static bool locks_are_free(void) {
    for (uint32_t shard = 0; shard < slab_shard_count; shard++)
        for (unsigned i = 0; i < CLASS_COUNT; i++)
            if (slab_shards[shard][i].lock.word != 0)
                return false;
    return true;
}

static void a_batch_goes_to_the_shards_of_its_objects(void) {
    enum { EACH = 12 };
    void *out[3][EACH], *mixed[3 * EACH + 1], *elsewhere;
    make_shards(3);
    for (uint32_t shard = 0; shard < 3; shard++) {
        slab_classes[CLASS].in_use = 1; /* so that each opens a slab */
        take(shard, out[shard], EACH);
    }
    for (unsigned i = 0; i < 3 * EACH; i++)
        mixed[i] = out[i % 3][i / 3];
    must(slab_take(OTHER, &elsewhere, 1) == 1);
    mixed[3 * EACH] = elsewhere;
    must(slab_give(CLASS, mixed, EACH, &culprit) == SLAB_OK && locks_are_free());
    for (uint32_t shard = 0; shard < 3; shard++) {
        slab_count_in(shard, CLASS, &counts);
        must(counts.objects - counts.free_objects == EACH - EACH / 3);
    }
    void **rest = mixed + EACH;
    must(slab_give(CLASS, rest, 2 * EACH + 1, &culprit) == SLAB_FOREIGN && culprit == 2 * EACH);
    must(locks_are_free());
    must(slab_give(CLASS, mixed, 1, &culprit) == SLAB_FOREIGN && culprit == 0);
    must(slab_give(OTHER, &elsewhere, 1, &culprit) == SLAB_OK && page_live_bytes() == 0);
    must_be_sound();
}

static void wrong_pointers_are_told_in_every_shard(void) {
    void *out[2][4];
    make_shards(2);
    take(0, out[0], 4);
    take(1, out[1], 4);
    void *twice[] = {out[0][0], out[1][0], out[0][1], out[1][0], out[0][2]};
    must(slab_give(CLASS, twice, 5, &culprit) == SLAB_FREE && culprit == 3);
    void *inside[] = {out[1][1], (char *)out[1][2] + 8};
    must(slab_give(CLASS, inside, 2, &culprit) == SLAB_INTERIOR && culprit == 1);
    void *foreign[] = {&culprit, out[1][2]};
    must(slab_give(CLASS, foreign, 2, &culprit) == SLAB_FOREIGN && culprit == 0);
    slab_count(CLASS, &counts);
    must(counts.objects - counts.free_objects == 4 && locks_are_free());
    must_be_sound();
}

/* ---- repair -------------------------------------------------------------------------------------- */

static void a_move_that_was_cut_is_completed(void) {
    void *out[8], *others[4];
    struct slab_counts before;
    make_shards(2);
    take(0, out, 8);
    take(1, others, 4);
    must(slab_give(CLASS, out, 4, &culprit) == SLAB_OK);
    slab_count(CLASS, &before);
    slab_of(out[7])->shard = 1; /* and all the rest is as it was */
    slab_shards[0][CLASS].lock.word = slab_shards[1][CLASS].lock.word = 0x1000;
    slab_repair();
    must_be_sound();
    slab_count(CLASS, &counts);
    must(memcmp(&before, &counts, sizeof counts) == 0);
    must(slabs_in(0) == 0 && slabs_in(1) == 2);
    must(slab_give(CLASS, out + 4, 4, &culprit) == SLAB_OK);
    must(slab_give(CLASS, others, 4, &culprit) == SLAB_OK && page_live_bytes() == 0);
    must_be_sound();
}

static void only_what_is_broken_is_rebuilt(void) {
    void *out[8], *others[4];
    make_shards(2);
    take(0, out, 8);
    take(1, others, 4);
    struct slab_class *class = &slab_shards[1][CLASS];
    class->partial = NULL;
    class->slabs = 77;
    class->lock.word = 0x1000;
    slab_repair();
    must_be_sound();
    must(slabs_in(0) == 1 && slabs_in(1) == 1);
}

static void planted_faults_are_named(void) {
    void *out;
    make_shards(2);
    take(1, &out, 1);
    must_hold(slab_verify());
    struct slab *slab = slab_of(out);
    slab->shard = 0; /* listed in one, counted in the other */
    must(strcmp(slab_verify(), "") != 0);
    slab->shard = 2;
    must(strcmp(slab_verify(), "INV-SLAB-5") == 0);
    slab->shard = 1;
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(threads_that_wait_get_a_shard),
        body_test(rare_waits_do_not_count),
        body_test(waits_elsewhere_do_not_count),
        body_test(lane_and_home_move_apart),
        body_test(lanes_are_given_in_turn),
        body_test(shards_are_tried_in_turn),
        body_test(the_limit_is_kept),
        body_test(without_memory_there_is_no_shard),
        body_test(a_shard_that_was_cut_is_found),
        body_test(a_slab_is_taken_over_before_one_is_opened),
        body_test(few_free_objects_are_left_to_their_shard),
        body_test(the_last_slab_goes_when_nobody_uses_it),
        body_test(a_slab_in_use_is_not_waited_for),
        body_test(the_peak_moves_along),
        body_test(holes_are_found_in_each_shard),
        body_test(a_batch_goes_to_the_shards_of_its_objects),
        body_test(wrong_pointers_are_told_in_every_shard),
        body_test(a_move_that_was_cut_is_completed),
        body_test(only_what_is_broken_is_rebuilt),
        body_test(planted_faults_are_named),
    };
    slab_small_most = 0; /* but where a test says otherwise */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
