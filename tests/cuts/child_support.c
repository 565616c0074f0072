/* SPDX-License-Identifier: MIT */
#include "child_support.h"

#include "heap.h"
#include "ledger_support.h"
#include "mapping.h"
#include "page.h"
#include "slab.h"

enum { SLOTS_PER_USER = 700 };

static void expect_whole(const char *broken) {
    if (!*broken)
        return;
    fprintf(stderr, "# %s does not hold\n", broken);
    _exit(1);
}

void child_verify(void) {
    heap_enter();
    expect_whole(page_verify());
    expect_whole(slab_verify());
}

size_t child_bytes_in_use(void) {
    struct mapping_counts mappings;
    mapping_count(&mappings);
    return page_live_bytes() + mappings.bytes;
}

static void free_one_that_lives(size_t from) {
    for (size_t i = 0; i < LEDGER_CUT; i++) {
        unsigned slot = (unsigned)((from + i) % LEDGER_CUT);
        if (ledger_live(slot)) {
            ledger_give(slot);
            return;
        }
    }
}

void child_first_call(unsigned variant) {
    switch (variant % 9) {
    case 0:
        quarry_free(quarry_malloc(50000));
        break;
    case 1:
        free_one_that_lives(variant);
        break;
    case 2:
        quarry_malloc_trim(0);
        break;
    case 3:
        (void)quarry_mallinfo2();
        break;
    case 4:
        for (int i = 0; i < 80; i++)
            ledger_take(LEDGER_CHILD + (unsigned)i, 72);
        ledger_give_many(LEDGER_CHILD, 80, 1);
        break;
    case 5:
        quarry_free(quarry_realloc(quarry_calloc(300, 100), 90000));
        break;
    case 6:
        quarry_free(quarry_malloc((size_t)3 << 20));
        break;
    case 7:
        quarry_free(quarry_memalign(16384, 100));
        break;
    case 8:
        quarry_mallopt(QUARRY_M_ZERO, 0);
        break;
    }
}

void child_use_heap(size_t focus, unsigned thread) {
    static const struct {
        unsigned count;
        size_t size;
    } mix[] = {{24, 1},    {24, 24},   {24, 64},   {24, 100},  {24, 200},
               {16, 500},  {12, 1000}, {8, 2000},  {6, 4000},  {4, 8000},
               {3, 16384}, {6, 20000}, {4, 33000}, {4, 70000}, {2, 100000}};
    unsigned first = LEDGER_CHILD + thread * SLOTS_PER_USER, slot = first;
    for (size_t i = 0; i < COUNT_OF(mix); i++) {
        ledger_take_many(slot, mix[i].count, mix[i].size);
        slot += mix[i].count;
    }
    for (unsigned i = 0; i < 8; i++)
        ledger_take_aligned(slot++, 8192, 100);
    ledger_take_zero(slot++, 140000);
    ledger_take_zero(slot++, 3000);
    unsigned count = focus ? (unsigned)min_size(280, 300000 / focus + 1) : 0;
    ledger_take_many(slot, count, focus);
    slot += count;
    must(slot <= first + SLOTS_PER_USER);
    for (unsigned i = first; i < slot; i += 3)
        ledger_give(i);
    for (unsigned i = first + 1; i < slot; i += 30)
        ledger_resize(i, (size_t)i * 37 % 50000 + 1);
    quarry_malloc_trim(0);
    child_verify();
    ledger_give_live(first, slot);
}

/* How much stays in use when every block was freed. */
static void expect_no_more(size_t bytes) {
    size_t left = child_bytes_in_use();
    if (left <= bytes)
        return;
    fprintf(stderr, "# %zu bytes leaked, no more than %zu may\n", left, bytes);
    _exit(1);
}

void child_check(const struct expectation *expectation) {
    child_first_call(expectation->variant);
    child_verify();
    ledger_check();
    child_use_heap(expectation->focus, 0);
    ledger_check();
    ledger_give_live(0, LEDGER_SLOTS);
    quarry_malloc_trim(0);
    child_verify();
    expect_no_more(expectation->leak_bytes);
}
