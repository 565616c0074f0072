/* SPDX-License-Identifier: MIT
 *
 * test_meta.c: memory for the allocator's own tables.
 */
#include "unit_support.h"

#include "lock.h"
#include "meta.h"
#include "option.h"

#include <malloc.h>
#include <quarry.h>

enum { SLOTS = 500 };

static struct table {
    void *start;
    size_t bytes;
} tables[SLOTS];

static void take(struct table *table, size_t bytes) {
    *table = (struct table){meta_take(bytes), bytes};
    must(table->start && is_aligned(table->start, 64) && all_zero(table->start, bytes));
    shadow_live_add(table->start, bytes);
    memset(table->start, 0xee, bytes);
}

static void give(struct table *table) {
    shadow_live_remove(table->start);
    meta_give(table->start, table->bytes);
    table->start = NULL;
}

static void tables_are_zero_and_apart(void) {
    struct rng rng = {test_seed()};
    size_t owned = fake_owned_bytes() - meta_mapped_bytes();
    for (size_t i = 0; i < 20000; i++) {
        struct table *table = &tables[rng_below(&rng, SLOTS)];
        if (table->start)
            give(table);
        else
            take(table, rng_between(&rng, 1, rng_below(&rng, 10) ? 2000 : 40000));
        must(fake_owned_bytes() - meta_mapped_bytes() == owned);
        must_hold(shadow_violation());
    }
}

static void what_is_given_back_is_used_again(void) {
    for (size_t bytes = 1; bytes <= META_BLOCK_MAX; bytes += 97) {
        struct table first, second;
        take(&first, bytes);
        void *start = first.start;
        uint64_t calls = fake_os.calls;
        give(&first);
        take(&second, bytes);
        must(second.start == start && fake_os.calls == calls);
    }
    must_hold(shadow_violation());
}

static void reserved_memory_takes_no_call(void) {
    size_t taken = 0;
    must(meta_take_ready(1000) != NULL); /* before anything is reserved it is as meta_take */
    meta_reserve(100000);
    uint64_t calls = fake_os.calls;
    while (meta_take_ready(1000))
        taken += 1000;
    must(taken >= 90000 && fake_os.calls == calls);
    must(meta_take(1000) != NULL && fake_os.calls > calls);
}

static void after_the_reserve_there_is_more(void) {
    meta_reserve(100000);
    while (meta_take_ready(1000))
        continue;
    meta_end_reserve();
    must(meta_take_ready(1000) != NULL);
    while (meta_mapped_bytes() < MIB)
        must(meta_take_ready(1000) != NULL);
    uint64_t calls = fake_os.calls;
    meta_reserve(100000); /* anew */
    must(fake_os.calls > calls);
}

static void large_tables_are_mapped_and_unmapped(void) {
    size_t mapped = meta_mapped_bytes();
    struct table table;
    take(&table, META_BLOCK_MAX + 1);
    must(meta_mapped_bytes() == mapped + META_BLOCK_MAX + 4 * KIB);
    give(&table);
    must(meta_mapped_bytes() == mapped && fake_os.count[FAKE_UNMAP] == 1);
    must_hold(shadow_violation());
}

static void a_refusal_leaves_what_there_is(void) {
    void *table;
    size_t before = 0, after = 0;
    take(&tables[0], 64);
    fake_os.fail_kinds = FAKE_MEMORY;
    must(meta_take(META_BLOCK_MAX + 1) == NULL);
    while (meta_take(1000))
        before++;
    must(before > 10 && before < 100); /* the rest of one chunk */
    give(&tables[0]);
    must((table = meta_take(64)) != NULL && all_zero(table, 64)); /* of the list */
    fake_os.fail_kinds = 0;
    for (; after < 100; after++)
        must(meta_take(1000) != NULL);
    must_hold(shadow_violation());
}

/* Every call of a series fails once. */
static void each_chunk_may_be_refused(void) {
    size_t refused = 0;
    for (size_t i = 0; i < 300; i++) {
        fake_os.fail_first = fake_os.calls + 1;
        fake_os.fail_count = 1;
        void *table = meta_take(5000);
        fake_os.fail_count = 0;
        if (!table) {
            refused++;
            must((table = meta_take(5000)) != NULL);
        }
        must(all_zero(table, 5000));
        shadow_live_add(table, 5000);
        memset(table, 1, 5000);
    }
    must(refused > 10);
    must_hold(shadow_violation());
}

static uint64_t published(const char *name) {
    for (uint32_t i = 0; i < quarry_public.field_count; i++)
        if (strcmp(quarry_public.field[i].name, name) == 0)
            return quarry_public.field[i].value;
    must(!"the name is published");
    return 0;
}

static uint64_t word_at(uint64_t address) {
    uint64_t word;
    memcpy(&word, (const void *)(uintptr_t)address, sizeof word);
    return word;
}

/* As a reader from outside adds them up. */
static void all_memory_is_published(void) {
    uint64_t next = published("offset.meta_chunk.next"),
             size = published("offset.meta_chunk.bytes");
    for (size_t i = 0; i < 100; i++) {
        take(&tables[i], i % 10 ? 5000 : 40000);
        uint64_t bytes = word_at(published("address.meta_large_bytes"));
        uint64_t chunk = word_at(published("address.meta_chunks"));
        for (; chunk != 0; chunk = word_at(chunk + next))
            bytes += word_at(chunk + size);
        must(bytes == meta_mapped_bytes());
    }
}

/* Either of the two options that make a program a real-time one, taken back, ends what they have reserved. */
static void what_is_reserved_is_not_for_good(void) {
    static const int params[] = {M_MMAP_MAX, M_TRIM_THRESHOLD}, back[] = {1000, 1 << 20};
    for (int i = 0; i < 2; i++) {
        must(option_set(M_MMAP_MAX, 0) == 1 && option_set(M_TRIM_THRESHOLD, -1) == 1);
        while (meta_take_ready(META_BLOCK_MAX))
            continue;
        must(option_set(params[i], back[i]) == 1 && meta_take_ready(META_BLOCK_MAX) != NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(tables_are_zero_and_apart),
        body_test(what_is_given_back_is_used_again),
        body_test(reserved_memory_takes_no_call),
        body_test(large_tables_are_mapped_and_unmapped),
        body_test(a_refusal_leaves_what_there_is),
        body_test(each_chunk_may_be_refused),
        body_test(all_memory_is_published),
        body_test(after_the_reserve_there_is_more),
        body_test(what_is_reserved_is_not_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
