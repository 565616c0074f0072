/* SPDX-License-Identifier: MIT
 *
 * test_cache_drain_random.c: drains of a bin whose owner is at any of its instructions, at random.
 *
 * The owner itself waits; the main thread plays it, between the drains and at their barriers.
 */
#include "sleeper_support.h"

static struct slab_counts slab;
static unsigned barriers;

/* The owner's program, one instruction at a time: a malloc loads an object and then lowers the top, a free
 * stores an object and then raises it; a malloc that loads NULL enters the slow path. */
enum { OBJECTS = 64 };
static struct {
    struct rng rng;
    void *live[OBJECTS];
    size_t count;
    void *loaded; /* and the top not lowered yet */
    bool stored;  /* and the top not raised yet */
    bool waits;   /* for the registry's lock */

    /* At the second barrier: some steps came before the drain's exchange, just after its look at the top. */
    bool in_the_past;
    void *past[256]; /* the stack as it was */
} owner;

static void **bottom(void) {
    return other->end[CLASS] - other->state[CLASS].capacity;
}

static void *load(void **slot) {
    return *slot || !owner.in_the_past ? *slot : owner.past[slot - bottom()];
}

static void step(void) {
    void ***top = &other->top[CLASS];
    if (owner.waits)
        return;
    if (owner.loaded) {
        owner.live[owner.count++] = owner.loaded;
        owner.loaded = NULL;
        --*top;
    } else if (owner.stored) {
        owner.stored = false;
        owner.count--;
        ++*top;
    } else if (rng_below(&owner.rng, 2)) {
        if (owner.count == OBJECTS)
            return;
        owner.loaded = load(*top);
        if (!owner.loaded) {
            other->busy = 1;
            owner.waits = other->drain;
            other->busy = other->drain;
        }
    } else if (owner.count > 0 && *top != other->end[CLASS]) {
        if (load(*top + 1) != (*top)[1])
            return; /* the exchange would have taken that */
        (*top)[1] = owner.live[owner.count - 1];
        owner.stored = true;
    }
}

static void some_steps(void) {
    for (uint64_t i = rng_below(&owner.rng, 8); i > 0; i--)
        step();
}

static void barrier(void) {
    owner.in_the_past = barriers++ == 1;
    if (owner.in_the_past)
        some_steps();
    owner.in_the_past = false;
    some_steps();
    memcpy(owner.past, bottom(), (other->state[CLASS].capacity + 1u) * sizeof(void *));
}

static void go_on(void) {
    bool between = !owner.loaded && !owner.stored;
    if (owner.waits || (other->drain && between && rng_below(&owner.rng, 2))) {
        cache_resume(other);
        owner.waits = false;
        other->busy = 0;
    }
    some_steps();
}

static int by_address(const void *a, const void *b) {
    uintptr_t first = *(const uintptr_t *)a, second = *(const uintptr_t *)b;
    return first < second ? -1 : first > second;
}

/* What the slabs miss is live or in the bin, and nothing is twice. */
static void must_own_each_once(void) {
    void *all[2 * OBJECTS + 256];
    size_t count = 0;
    for (; count < owner.count; count++)
        all[count] = owner.live[count];
    for (void **slot = other->top[CLASS]; *slot; slot--)
        all[count++] = *slot;
    qsort(all, count, sizeof *all, by_address);
    for (size_t i = 1; i < count; i++)
        must(all[i - 1] != all[i]);
    for (size_t i = 0; i < count; i++) {
        uintptr_t object = 0;
        bool is_free = true;
        must(slab_around((uintptr_t)all[i], &object, &is_free) == CLASS && !is_free);
    }
    slab_count(CLASS, &slab);
    must(slab.objects - slab.free_objects == count);
    must(cache_depth(other, CLASS) == count - owner.count);
}

/* An object of the slabs enters the owner's bin, as after a refill. */
static void refill(void) {
    void *object;
    if (owner.loaded || owner.stored || owner.waits || other->drain ||
        other->top[CLASS] == other->end[CLASS])
        return;
    must(slab_take(CLASS, &object, 1) == 1);
    *++other->top[CLASS] = object;
}

static void an_owner_at_any_instruction_loses_nothing(void) {
    pthread_t thread = begin(CACHED);
    owner.rng = (struct rng){test_seed()};
    size_t drained = 0;
    for (unsigned i = 0; i < 60000; i++) {
        barriers = 0;
        fake_os.on_barrier = barrier;
        cache_drain();
        fake_os.on_barrier = NULL;
        drained += other->state[CLASS].drained > 0;
        go_on();
        for (uint64_t k = rng_below(&owner.rng, 12); k > 0; k--)
            refill();
        if (!owner.loaded && !owner.stored)
            must_own_each_once();
    }
    must(drained > 1000);
    while (owner.loaded || owner.stored)
        step();
    while (owner.count > 0)
        api_free(owner.live[--owner.count]);
    end(thread);
}

int main(void) {
    const struct CMUnitTest tests[] = {body_test(an_owner_at_any_instruction_loses_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
