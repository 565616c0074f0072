/* SPDX-License-Identifier: MIT
 *
 * test_cuts_faults.c: the checks of cut children can fail.  Each test plants a fault in the children,
 * before they repair what the fork cut, and expects that they notice.
 */
#include "campaign_support.h"
#include "ledger_support.h"
#include "page_internal.h"
#include "slab.h"

/* The repair of the page layer is left out: its lock looks as if nobody had held it. */
static void free_page_lock(void) {
    page_state.lock.word = 0;
}

static void free_class_locks(void) {
    for (uint32_t shard = 0; shard < slab_shard_count; shard++)
        for (unsigned i = 1; i < CLASS_COUNT; i++)
            slab_shards[shard][i].lock.word = 0;
}

/* A live object lies in its slab as well, as if bits were set before a pointer left its bin. */
static void duplicate_object(void) {
    uintptr_t address = (uintptr_t)ledger_address(LEDGER_SETUP);
    struct slab *slab = pagemap_slab(pagemap_region(address), pagemap_head(address));
    struct slab_class *class = &slab_classes[slab->class_index];
    unsigned index = sizeclass_index(&size_classes[slab->class_index], address - slab->base);
    must(slab->free_count > 0);
    slab->word[index / 64] |= (uint64_t)1 << (index % 64);
    slab->free_count++;
    class->free_objects++;
}

/* A live run is free as well, as if its head were changed after its pages entered the sets. */
static void duplicate_run(void) {
    for (unsigned slot = LEDGER_SETUP; slot < LEDGER_CUT; slot++) {
        uintptr_t address = (uintptr_t)ledger_address(slot);
        if (!ledger_live(slot) || !page_run_pages(address))
            continue;
        struct region *region = pagemap_region(address);
        pagemap_set_head(region, pagemap_page(region, address), head_make(HEAD_FREE, 0));
        return;
    }
}

static void lose_memory(void) {
    must(quarry_malloc(900000) != NULL);
}

struct planted {
    const char *name, *scenario;
    void (*fault)(void);
    bool always; /* whatever the cut is */
};

static struct planted faults[] = {
    {"the page layer is not repaired", "runs are taken, given and merged", free_page_lock, false},
    {"no class is repaired", "a bin is refilled", free_class_locks, false},
    {"an object is in two places", "a bin spills", duplicate_object, true},
    {"a run is in two places", "runs are taken, given and merged", duplicate_run, true},
    {"memory is lost", "a bin is refilled", lose_memory, true},
};

static void children_notice(void **state) {
    const struct planted *planted = *state;
    struct campaign campaign = {
        scenario_named(planted->scenario), FORK_BY_ANOTHER, 3, 1, planted->fault, NULL, 0};
    struct result result = campaign_run(&campaign, true);
    printf("# %u of %u children\n", result.failures, result.children);
    assert_int_equal(result.status, 0);
    assert_true(result.children > 0);
    if (planted->always)
        assert_int_equal(result.failures, result.children);
    else
        assert_true(result.failures > 0);
}

int main(void) {
    struct CMUnitTest tests[COUNT_OF(faults)] = {0};
    for (size_t i = 0; i < COUNT_OF(faults); i++)
        tests[i] = (struct CMUnitTest){faults[i].name, children_notice, NULL, NULL, &faults[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
