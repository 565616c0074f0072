/* SPDX-License-Identifier: MIT
 *
 * test_mapping.c: blocks that are mappings of their own: thousands of them at random beside a model,
 * alignment, resizing, and every refusal.
 */
#include "unit_support.h"

#include "mapping.h"

enum { MANY = 4000, STEPS = 20000 };

struct block {
    char *start;
    size_t bytes;
};

static struct rng rng;
static struct block blocks[MANY];
static size_t live, live_bytes;
static bool flaky;

static void mark(struct block *block) {
    uint64_t word = rng_next(&rng);
    memcpy(block->start, &word, sizeof word);
    memcpy(block->start + block->bytes - sizeof word, &word, sizeof word);
    shadow_live_add(block->start, block->bytes);
}

/* Both ends of a block still hold the same word. */
static void unmark(const struct block *block) {
    must(memcmp(block->start, block->start + block->bytes - 8, 8) == 0);
    shadow_live_remove(block->start);
}

static void take(struct block *block) {
    size_t bytes = rng_between(&rng, 1, 20 * PAGE), align = rng_below(&rng, 5) ? 1 : 64 * KIB;
    block->start = mapping_take(bytes, align);
    must(block->start || flaky);
    if (!block->start)
        return;
    block->bytes = round_up(bytes, fake_os.page_bytes);
    must(is_aligned(block->start, align) && is_aligned(block->start, fake_os.page_bytes));
    must(block->start[0] == 0 && block->start[block->bytes - 1] == 0);
    must(mapping_bytes(block->start) == block->bytes);
    live++;
    live_bytes += block->bytes;
    mark(block);
}

static void give(struct block *block) {
    unmark(block);
    must(mapping_give(block->start) == block->bytes);
    must(mapping_bytes(block->start) == 0 && mapping_give(block->start) == 0);
    live--;
    live_bytes -= block->bytes;
    block->start = NULL;
}

static void resize(struct block *block) {
    size_t bytes = rng_between(&rng, 1, 30 * PAGE), old = block->bytes;
    char first = block->start[0];
    unmark(block);
    char *moved = mapping_resize(block->start, bytes);
    must(moved || flaky);
    if (moved) {
        must(moved[0] == first);
        must(moved == block->start || mapping_bytes(block->start) == 0);
        *block = (struct block){moved, round_up(bytes, fake_os.page_bytes)};
        must(block->bytes <= old || moved[block->bytes - 1] == 0);
    }
    must(mapping_bytes(block->start) == block->bytes);
    live_bytes += block->bytes - old;
    mark(block);
}

static void look_at(const struct block *block) {
    size_t bytes = 0;
    uintptr_t inside = (uintptr_t)block->start + rng_below(&rng, block->bytes);
    must(mapping_around(inside, &bytes) == (uintptr_t)block->start && bytes == block->bytes);
    must(mapping_bytes((char *)inside + 1) == 0 || block->start == (char *)inside + 1 ||
         is_aligned((char *)inside + 1, PAGE));
}

static void check_counts(void) {
    struct mapping_counts counts;
    mapping_count(&counts);
    must(counts.count == live && counts.bytes == live_bytes && mapping_live() == live);
    must(counts.peak_count >= live && counts.peak_bytes >= live_bytes);
    must_hold(shadow_violation());
}

static void play(void) {
    rng.state = test_seed();
    for (size_t i = 0; i < STEPS; i++) {
        struct block *block = &blocks[rng_below(&rng, MANY)];
        size_t dice = rng_below(&rng, 100);
        if (flaky)
            fake_os.fail_kinds = rng_below(&rng, 3) ? 0 : (unsigned)rng_next(&rng) & FAKE_ALL;
        if (!block->start)
            take(block);
        else if (dice < 40)
            give(block);
        else if (dice < 70)
            resize(block);
        else if (dice < 72)
            look_at(block);
        check_counts();
    }
    fake_os.fail_kinds = 0;
    for (size_t i = 0; i < MANY; i++)
        if (blocks[i].start)
            give(&blocks[i]);
    check_counts();
}

static void thousands_match_the_model(void) {
    size_t owned = fake_owned_bytes();
    play();
    must(fake_owned_bytes() <= owned + MIB); /* the table */
}

static void thousands_with_larger_pages(void) {
    fake_os.page_bytes = 16 * KIB;
    play();
}

static void thousands_where_anything_fails_at_times(void) {
    flaky = true;
    play();
}

static void alignment_up_to_1_gib_wastes_nothing(void) {
    for (size_t align = 1; align <= GIB; align *= 2) {
        size_t owned = fake_owned_bytes();
        void *block = mapping_take(100 * KIB, align);
        must(block && is_aligned(block, align) && mapping_bytes(block) == 100 * KIB);
        must(fake_owned_bytes() - owned <= 100 * KIB + 128 * KIB); /* a table may have come too */
        must(mapping_give(block) == 100 * KIB);
        must_hold(shadow_violation());
    }
}

static void impossible_sizes_are_refused(void) {
    must(mapping_take(PTRDIFF_MAX, 1) == NULL);
    must(mapping_take(PTRDIFF_MAX - 4096, 4096) == NULL);
    must(mapping_take(1, (size_t)1 << 62) == NULL);
    must(mapping_live() == 0);
    must_hold(shadow_violation());
}

static void what_is_no_block_is_unknown(void) {
    static int foreign;
    char *block = mapping_take(3 * PAGE, 1);
    size_t bytes;
    if (mapping_table->entry[0].address ==
        0) /* where 1 is looked for: a slot that was in use says 1 */
        mapping_table->entry[0] = (struct mapping_entry){1, PAGE};
    void *const wrong[] = {NULL, (void *)1, &foreign, block + 1, block + PAGE, block + 3 * PAGE};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        must(mapping_bytes(wrong[i]) == 0);
        must(mapping_give(wrong[i]) == 0);
        must(mapping_resize(wrong[i], PAGE) == NULL);
    }
    must(mapping_around((uintptr_t)&foreign, &bytes) == 0);
    must(mapping_around((uintptr_t)block - 1, &bytes) == 0);
    must(mapping_around((uintptr_t)block + 3 * PAGE, &bytes) == 0);
    must(mapping_bytes(block) == 3 * PAGE);
    must_hold(shadow_violation());
}

/* ---- refusals ------------------------------------------------------------------------------------ */

static void a_refused_resize_leaves_the_block(void) {
    char *block = mapping_take(8 * PAGE, 1);
    pattern_fill(block, 8 * PAGE, 5);
    fake_os.fail_kinds = FAKE_BIT(FAKE_REMAP);
    must(mapping_resize(block, 16 * PAGE) == NULL);
    must(mapping_resize(block, 4 * PAGE) == NULL);
    must(mapping_bytes(block) == 8 * PAGE && pattern_intact(block, 8 * PAGE, 5, 8 * PAGE));
    fake_os.fail_kinds = 0;
    char *moved = mapping_resize(block, 16 * PAGE);
    must(moved && pattern_intact(moved, 8 * PAGE, 5, 8 * PAGE));
    must_hold(shadow_violation());
}

/* Every block costs one mapping call, the table now and then another; that one fails. */
static void a_table_that_cannot_grow_refuses_new_blocks(void) {
    size_t refused = 0;
    for (size_t i = 0; i < 1000; i++) {
        fake_os.fail_first = fake_os.calls + 2; /* the call after the block's own */
        fake_os.fail_count = 1;
        size_t owned = fake_owned_bytes();
        blocks[i].start = mapping_take(PAGE, 1);
        fake_os.fail_count = 0;
        if (!blocks[i].start) {
            must(fake_owned_bytes() == owned);
            refused++;
            blocks[i].start = mapping_take(PAGE, 1);
        }
        must(blocks[i].start && mapping_bytes(blocks[i].start) == PAGE);
    }
    must(refused > 0);
    must(mapping_live() == 1000);
    for (size_t i = 0; i < 1000; i++)
        must(mapping_bytes(blocks[i].start) == PAGE);
    must_hold(shadow_violation());
}

/* A block that has moved is never lost, and resizing ends, however long the table cannot grow: each
 * move leads to an address that was never used, so that the table's slots run out. */
static void resizing_ends_without_a_larger_table(void) {
    const size_t count = 200, moves = 3000; /* its table does not fit into a block of meta.c */
    size_t refused = 0;
    for (size_t i = 0; i < count; i++)
        must((blocks[i].start = mapping_take(PAGE, 1)) != NULL);
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP);
    for (size_t i = 0; i < moves; i++) {
        struct block *block = &blocks[i % count];
        size_t bytes = mapping_bytes(block->start);
        fake_foreign_map((uintptr_t)block->start + bytes, PAGE); /* it cannot grow where it is */
        char *moved = mapping_resize(block->start, bytes + PAGE);
        refused += moved == NULL;
        if (moved) {
            must(fake_foreign_map((uintptr_t)block->start, bytes));
            block->start = moved;
        }
        must(mapping_bytes(block->start) == bytes + (moved ? PAGE : 0));
        must(mapping_live() == count);
    }
    must(refused > 0 && refused < moves);
    fake_os.fail_kinds = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = mapping_bytes(blocks[i].start);
        must((blocks[i].start = mapping_resize(blocks[i].start, 100 * PAGE)) != NULL);
        must(bytes && mapping_give(blocks[i].start) == 100 * PAGE);
    }
    must_hold(shadow_violation());
}

/* The address space stays then, but not the memory. */
static void what_cannot_be_unmapped_is_purged(void) {
    char *block = mapping_take(64 * PAGE, 1);
    memset(block, 1, 64 * PAGE);
    fake_os.fail_kinds = FAKE_BIT(FAKE_UNMAP);
    must(mapping_give(block) == 64 * PAGE);
    must(mapping_bytes(block) == 0 && mapping_live() == 0);
    must(fake_resident_bytes(block, 64 * PAGE) == 0);
    must_hold(shadow_violation());
}

static void give_and_be_refused(void *block) {
    fake_os.fail_kinds = FAKE_BIT(FAKE_UNMAP);
    mapping_give(block);
    fake_os.fail_kinds = 0;
}

/* Only what the kernel refused to split is a sign; it holds until a quarter of the blocks is gone, and
 * not again before the next one. */
static void a_refused_split_is_remembered_until_a_quarter_is_gone(void) {
    const size_t count = 41;
    for (size_t i = 0; i < count; i++)
        must((blocks[i].start = mapping_take(PAGE, 1)) != NULL);
    mapping_give(blocks[40].start);
    must(!mapping_crowded());
    give_and_be_refused(blocks[39].start); /* 39 are left, of which 30 are three quarters */
    must(mapping_crowded());
    for (size_t i = 30; i < 39; i++) {
        must(mapping_crowded());
        mapping_give(blocks[i].start);
    }
    must(!mapping_crowded());
    for (size_t i = 30; i < count; i++)
        must((blocks[i].start = mapping_take(PAGE, 1)) && !mapping_crowded());
    must_hold(shadow_violation());
}

static void the_only_block_may_be_refused_without_an_end_to_mappings(void) {
    give_and_be_refused(mapping_take(PAGE, 1));
    must(!mapping_crowded()); /* none are left that could become fewer */
    must(mapping_take(PAGE, 1) && mapping_take(PAGE, 1) && !mapping_crowded());
    must_hold(shadow_violation());
}

static void a_cut_for_alignment_counts(void) {
    for (size_t i = 0; i < 8; i++)
        must(mapping_take(PAGE, 1));
    fake_os.fail_kinds = FAKE_BIT(FAKE_UNMAP);
    void *aligned = mapping_take(PAGE, 64 * KIB);
    fake_os.fail_kinds = 0;
    must(is_aligned(aligned, 64 * KIB) && mapping_crowded());
    must(mapping_give(aligned) == PAGE);
    must_hold(shadow_violation());
}

static void a_guard_counts(void) {
    mapping_guard_all();
    for (size_t i = 0; i < 8; i++)
        must(mapping_take(PAGE, 1));
    fake_os.fail_kinds = FAKE_BIT(FAKE_SEAL);
    must(!mapping_crowded() && mapping_take(PAGE, 1) == NULL);
    must(mapping_crowded() && mapping_live() == 8);
    must_hold(shadow_violation());
}

static void sealing_a_block_counts(void) {
    void *block = mapping_take(PAGE, 1);
    for (size_t i = 0; i < 8; i++)
        must(mapping_take(PAGE, 1));
    fake_os.fail_kinds = FAKE_BIT(FAKE_SEAL);
    must(!mapping_seal(block) && mapping_crowded());
    must_hold(shadow_violation());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(thousands_match_the_model),
        body_test(thousands_with_larger_pages),
        body_test(thousands_where_anything_fails_at_times),
        body_test(alignment_up_to_1_gib_wastes_nothing),
        body_test(impossible_sizes_are_refused),
        body_test(what_is_no_block_is_unknown),
        body_test(a_refused_resize_leaves_the_block),
        body_test(a_table_that_cannot_grow_refuses_new_blocks),
        body_test(resizing_ends_without_a_larger_table),
        body_test(what_cannot_be_unmapped_is_purged),
        body_test(a_refused_split_is_remembered_until_a_quarter_is_gone),
        body_test(the_only_block_may_be_refused_without_an_end_to_mappings),
        body_test(a_cut_for_alignment_counts),
        body_test(a_guard_counts),
        body_test(sealing_a_block_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
