/* SPDX-License-Identifier: MIT
 *
 * test_page_verify.c: runs that turn into slabs and back; repair after a fork cut the page layer; and
 * page_verify with one fault planted at a time.
 */
#include "run_support.h"

#include "page_internal.h"
#include "sizeclass.h"

/* ---- slabs ------------------------------------------------------------------------------------- */

static struct slab *open_slab(unsigned class_index) {
    const struct size_class *shape = &size_classes[class_index];
    bool zero;
    uintptr_t run = page_run_take(shape->pages, PAGE_BYTES, &zero);
    struct slab *slab = page_slab_open(run, shape->pages, class_index, 0, shape->objects, zero);
    must(slab != NULL);
    return slab;
}

static void a_run_turns_into_a_slab_and_back(void) {
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *shape = &size_classes[i];
        struct slab *slab = open_slab(i);
        uintptr_t base = slab->base, end = base + shape->pages * PAGE_BYTES;
        must(slab->free_count == 0 && slab->class_index == i); /* whoever lists it counts */
        must(i > 1 || slab->clean_pages == bit_mask(shape->pages));
        must(page_run_pages(base) == 0 && !page_run_give(base));
        for (uintptr_t at = base; at < end; at += 256) {
            must(pagemap_class((void *)at) == i);
            must(pagemap_slab(pagemap_region(at), pagemap_head(at)) == slab);
        }
        must_hold(page_verify());
        page_slab_close(slab, shape->pages);
        must(pagemap_class((void *)base) == 0 && slab->class_index == 0);
        must_hold(page_verify());
    }
    must(page_live_bytes() == 0);
    must_hold(shadow_violation());
}

static void without_a_descriptor_a_run_stays_a_run(void) {
    uintptr_t run = take_dirty(4);
    struct region *region = pagemap_region(run);
    while (pagemap_slot_take(region)) {
    }
    must(page_slab_open(run, 4, 1, 0, size_classes[1].objects, false) == NULL);
    must(page_run_pages(run) == 4);
    must(page_run_give(run));
    must_hold(page_verify());
}

/* ---- repair ------------------------------------------------------------------------------------ */

/* As in the child of a process whose other thread was cut under the page lock. */
static void sets_are_rebuilt_from_heads(void) {
    uintptr_t long_run = take_dirty(20000), given = take_dirty(HOT_MAX_PAGES + 1);
    uintptr_t run = take_dirty(5);
    struct slab *slab = open_slab(10);
    must(page_run_give(given));
    uint32_t count = pagemap_region_count;
    struct page_counts before, after;
    page_count(&before);
    for (uint32_t rank = 0; rank < count; rank++)
        memset(&pagemap_ranked(rank)->dirty, 0xff, sizeof(struct buddy));
    page_state.dirty_pages = page_state.zone_pages = 12345;
    page_state.lock.word = 0x1000; /* nobody's */
    page_repair();
    must_hold(page_verify());
    page_count(&after);
    must(after.zone_bytes == before.zone_bytes);
    must(after.dirty_bytes == before.dirty_bytes + before.clean_bytes && after.clean_bytes == 0);
    must(page_run_pages(run) == 5 && page_run_pages(long_run) == 20000);
    must(pagemap_slab(pagemap_region(slab->base), pagemap_head(slab->base)) == slab);
    must(page_run_give(run) && page_run_give(long_run));
    page_slab_close(slab, size_classes[10].pages);
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void hot_runs_are_free_again_after_a_repair(void) {
    uintptr_t run = take_dirty(5), hot = take_dirty(7);
    must(page_run_give(hot));
    page_state.lock.word = 0x1000;
    page_repair();
    must(!hot_merge_all());
    must_be_sound();
    must(page_live_bytes() == 5 * PAGE_BYTES);
    must(page_run_pages(hot) == 0 && !page_run_give(hot));
    must_take(hot, 7, false);
    must(page_run_give(hot) && page_run_give(run));
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void an_unbroken_lock_means_no_repair(void) {
    take_dirty(5);
    page_state.dirty_pages += 3;
    page_repair();
    must(strcmp(page_verify(), "INV-BUDDY-1") == 0);
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void must_break(const char *invariant) {
    const char *broken = page_verify();
    if (strcmp(broken, invariant) != 0) {
        fprintf(stderr, "# \"%s\" instead of %s\n", broken, invariant);
        must(false);
    }
}

static void planted_faults_are_named(void) {
    uintptr_t run = take_dirty(5), given = take_dirty(HOT_MAX_PAGES + 64);
    struct slab *one = open_slab(30), *other = open_slab(30);
    must(page_run_give(given) && last_merge());
    must_break("");
    struct region *region = pagemap_region(run);
    uint32_t *head = &region->head[pagemap_page(region, run)];
    uint32_t *free_head = &region->head[pagemap_page(region, given)];
    uint32_t *slab_head = &region->head[pagemap_page(region, one->base)];
    uint32_t other_head = pagemap_head(other->base), right = *head;

    *head = head_make(HEAD_FREE, 0); /* free by its head, in no set */
    must_break("INV-MAP-2");
    *head = head_make(HEAD_RUN, 6); /* the run covers what a set holds */
    must_break("INV-MAP-2");
    *head = right;
    *free_head = head_make(HEAD_ABSENT, 0);
    must_break("INV-MAP-2");
    *free_head = head_make(HEAD_FREE, 0);
    buddy_insert(&region->clean, pagemap_page(region, given), 1); /* in both sets */
    must_break("INV-MAP-2");
    buddy_remove(&region->clean, pagemap_page(region, given), 1);

    pagemap_set_class(given + 5 * PAGE_BYTES, 1, 30);
    must_break("INV-MAP-1");
    pagemap_set_class(given + 5 * PAGE_BYTES, 1, 0);
    pagemap_set_class(one->base + PAGE_BYTES, 1, 29);
    must_break("INV-MAP-1");
    pagemap_set_class(one->base + PAGE_BYTES, 1, 30);

    for (unsigned i = 0; i < size_classes[30].pages; i++) {
        uint32_t own = slab_head[i];
        slab_head[i] = other_head;
        must_break("INV-MAP-3");
        slab_head[i] = own;
    }
    page_state.clean_pages++;
    must_break("INV-BUDDY-1");
    page_state.clean_pages--;
    region->dirty.pages++;
    must_break("INV-BUDDY-1");
    region->dirty.pages--;
    struct fit fit = region->fit;
    fit_clear(&region->fit);
    extent_forget(region);
    region->fit = fit;
    must_break("INV-EXTENT-1");
    extent_forget(region);
    must_break("");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(a_run_turns_into_a_slab_and_back),
        body_test(without_a_descriptor_a_run_stays_a_run),
        body_test(sets_are_rebuilt_from_heads),
        body_test(hot_runs_are_free_again_after_a_repair),
        body_test(an_unbroken_lock_means_no_repair),
        body_test(planted_faults_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
