/* SPDX-License-Identifier: MIT
 *
 * test_model.c: random calls of the whole API beside a dumb model of it, in one thread.
 *
 * The model is an array of live blocks: address, size, alignment, and the seed of the pattern that
 * fills the block.  After each call the model says what must hold; every few hundred calls all live
 * blocks are sorted by address and no two may overlap.  Rerun a failure with the seed it printed:
 *
 *   QUARRY_TEST_SEED=0x... QUARRY_TEST_OPS=... test_model
 */
#include "support.h"

#include "api_under_test.h"

enum { SLOTS = 3000, OVERLAP_CHECK_INTERVAL = 256 };
#define MAX_LIVE_BYTES (256 * MIB)

enum origin { PLAIN, ALIGNED, RESIZED };

struct block {
    unsigned char *address;
    size_t size;      /* as asked for */
    size_t usable;    /* as malloc_usable_size said when it was allocated */
    size_t filled;    /* bytes that hold the pattern: size or usable */
    size_t alignment; /* as asked for, at least 16 */
    uint64_t seed;
    enum origin origin;
};

static struct {
    struct rng rng;
    struct block *blocks; /* SLOTS of them; address is NULL in free slots */
    struct block *sorted;
    size_t live_bytes;
    uint64_t operation;
    size_t class_sizes[400];
    size_t class_count;
} model;

#define model_check(condition)                                                               \
    do {                                                                                     \
        if (!(condition))                                                                    \
            fail_msg("operation %llu: %s", (unsigned long long)model.operation, #condition); \
    } while (0)

/* ---- Sizes ------------------------------------------------------------------------------------ */

/* The sizes at which the allocator's classes end, found from outside. */
static void find_class_sizes(void) {
    size_t size = 0;
    while (size < 40 * KIB && model.class_count < COUNT_OF(model.class_sizes)) {
        void *block = t_malloc(size);
        assert_non_null(block);
        size_t usable = t_malloc_usable_size(block);
        t_free(block);
        assert_true(usable >= size);
        model.class_sizes[model.class_count++] = usable;
        size = usable + 1;
    }
    assert_true(model.class_count >= 10);
}

static size_t off_by_one(size_t size) {
    size_t shifted = size + rng_below(&model.rng, 3);
    return shifted == 0 ? 0 : shifted - 1;
}

static size_t random_size(void) {
    struct rng *rng = &model.rng;
    size_t dice = rng_below(rng, 1000);
    if (dice < 300)
        return rng_below(rng, 130);
    if (dice < 570)
        return off_by_one(model.class_sizes[rng_below(rng, model.class_count)]);
    if (dice < 720)
        return off_by_one(rng_between(rng, 1, 64) * PAGE);
    if (dice < 870)
        return rng_between(rng, KIB, 32 * KIB);
    if (dice < 970)
        return rng_between(rng, 32 * KIB, MIB);
    if (dice < 997)
        return rng_between(rng, MIB, 8 * MIB);
    return off_by_one(rng_between(rng, 8, 64) * MIB);
}

/* ---- Checks of one block ------------------------------------------------------------------------- */

/* Takes a new block into a slot and fills it: all usable bytes of half of them. */
static void adopt(struct block *block, void *address, size_t size, size_t alignment,
                  enum origin origin) {
    model_check(address != NULL);
    model_check(is_aligned(address, alignment));
    block->address = address;
    block->size = size;
    block->usable = t_malloc_usable_size(address);
    model_check(block->usable >= size);
    block->filled = rng_below(&model.rng, 2) == 0 ? size : block->usable;
    block->alignment = alignment;
    block->seed = rng_next(&model.rng);
    block->origin = origin;
    pattern_fill(address, block->filled, block->seed);
    model.live_bytes += block->usable;
}

static void check_block(const struct block *block) {
    model_check(t_malloc_usable_size(block->address) == block->usable);
    model_check(pattern_intact(block->address, block->filled, block->seed, block->filled));
}

static void forget(struct block *block) {
    model.live_bytes -= block->usable;
    block->address = NULL;
}

static int compare_addresses(const void *left, const void *right) {
    const struct block *a = left;
    const struct block *b = right;
    return a->address < b->address ? -1 : a->address > b->address;
}

static void check_overlaps(void) {
    size_t count = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        if (model.blocks[i].address != NULL)
            model.sorted[count++] = model.blocks[i];
    }
    qsort(model.sorted, count, sizeof *model.sorted, compare_addresses);
    for (size_t i = 1; i < count; i++)
        model_check(model.sorted[i - 1].address + model.sorted[i - 1].usable <=
                    model.sorted[i].address);
}

/* ---- Operations ------------------------------------------------------------------------------- */

static void allocate_plain(struct block *block) {
    size_t size = random_size();
    switch (rng_below(&model.rng, 6)) {
    case 0: {
        size_t factor = rng_between(&model.rng, 1, 9);
        void *address = t_calloc(size / factor, factor);
        size = size / factor * factor;
        model_check(address != NULL);
        model_check(all_zero(address, size < MIB ? size : MIB));
        model_check(all_zero((char *)address + size - size % PAGE, size % PAGE));
        adopt(block, address, size, 16, PLAIN);
        return;
    }
    case 1:
        adopt(block, t_realloc(NULL, size), size, 16, PLAIN);
        return;
    default:
        adopt(block, t_malloc(size), size, 16, PLAIN);
    }
}

static void allocate_aligned(struct block *block) {
    size_t size = random_size();
    size_t alignment = (size_t)16 << rng_below(&model.rng, rng_below(&model.rng, 8) == 0 ? 19 : 9);
    void *address = NULL;
    switch (rng_below(&model.rng, 5)) {
    case 0:
        adopt(block, t_memalign(alignment, size), size, alignment, ALIGNED);
        return;
    case 1:
        adopt(block, t_aligned_alloc(alignment, size), size, alignment, ALIGNED);
        return;
    case 2:
        model_check(t_posix_memalign(&address, alignment, size) == 0);
        adopt(block, address, size, alignment, ALIGNED);
        return;
    case 3:
        adopt(block, t_valloc(size), size, PAGE, RESIZED);
        return;
    default:
        adopt(block, t_pvalloc(size), size, PAGE, RESIZED);
    }
}

static void release(struct block *block) {
    check_block(block);
    unsigned char *address = block->address;
    size_t way = rng_below(&model.rng, 4);
    errno = 1234;
    if (way == 0 && block->origin == PLAIN)
        t_free_sized(address, block->size);
    else if (way == 0 && block->origin == ALIGNED)
        t_free_aligned_sized(address, block->alignment, block->size);
    else if (way == 1 && rng_below(&model.rng, 4) == 0)
        model_check(t_realloc(address, 0) == NULL);
    else
        t_free(address);
    model_check(errno == 1234);
    forget(block);
}

static size_t next_size(const struct block *block) {
    switch (rng_below(&model.rng, 6)) {
    case 0:
        return random_size();
    case 1:
        return block->size;
    case 2:
        return block->usable;
    case 3:
        return block->size + rng_below(&model.rng, block->size / 4 + 64);
    case 4:
        return rng_below(&model.rng, block->size + 1);
    default:
        return block->size / 2 + 1;
    }
}

/* glibc tells by a bit in the word before a block that it is a mapping of its own. */
static bool is_glibc_mapping(const void *block) {
    return ON_GLIBC && (((const size_t *)block)[-1] & 2) != 0;
}

static void resize(struct block *block) {
    check_block(block);
    struct block old = *block;
    size_t size = next_size(block);
    if (size == 0)
        size = 1;
    bool was_mapping = is_glibc_mapping(old.address);
    void *address = t_realloc(old.address, size);
    model_check(address != NULL);
    /* A block that came from an aligned function may stand in more than it needs: test_realloc.c. */
    bool must_stay = old.origin == PLAIN && size >= old.size && size <= old.usable;
    if (was_mapping) /* COMPAT-2 */
        must_stay = size == old.size;
    model_check(!must_stay || address == old.address);
    size_t kept = size < old.filled ? size : old.filled;
    model_check(pattern_intact(address, old.filled, old.seed, kept));
    forget(block);
    adopt(block, address, size, 16, old.origin == PLAIN ? PLAIN : RESIZED);
}

static void change_settings(void) {
    static const int thresholds[] = {-1, 0, 64 * 1024, 128 * 1024, 1 << 20, 64 << 20};
    static const int map_thresholds[] = {32 * 1024, 128 * 1024, 1 << 20, 32 << 20};
    struct rng *rng = &model.rng;
    switch (rng_below(rng, 9)) {
    case 0:
        (void)t_malloc_trim(rng_below(rng, 2) * MIB);
        break;
    case 1:
        model_check(t_mallopt(M_TRIM_THRESHOLD, thresholds[rng_below(rng, 6)]) == 1);
        break;
    case 2:
        model_check(t_mallopt(M_TOP_PAD, (int)(rng_below(rng, 3) * 128 * KIB)) == 1);
        break;
    case 3:
        model_check(t_mallopt(M_MMAP_THRESHOLD, map_thresholds[rng_below(rng, 4)]) == 1);
        break;
    case 4:
        model_check(t_mallopt(M_MMAP_MAX, (int)(rng_below(rng, 3) * 32768)) == 1);
        break;
    case 5:
        model_check(t_mallopt(M_PERTURB, rng_below(rng, 3) == 0 ? 0x5a : 0) == 1);
        break;
    case 6:
        model_check(t_mallopt(M_MXFAST, (int)rng_below(rng, 161)) == 1);
        break;
    case 7:
        model_check(t_mallopt(M_ARENA_MAX, (int)rng_below(rng, 8)) == 1);
        break;
    default: {
        struct mallinfo2 info = t_mallinfo2();
        model_check(info.uordblks + info.fordblks == info.arena);
        model_check(info.keepcost <= info.arena);
    }
    }
}

static void run_operation(void) {
    struct block *block = &model.blocks[rng_below(&model.rng, SLOTS)];
    size_t dice = rng_below(&model.rng, 1000);
    if (dice < 2)
        change_settings();
    else if (block->address == NULL && model.live_bytes > MAX_LIVE_BYTES)
        return;
    else if (block->address == NULL && dice < 850)
        allocate_plain(block);
    else if (block->address == NULL)
        allocate_aligned(block);
    else if (dice < 300)
        resize(block);
    else
        release(block);
}

/* Alternately lets the heap grow and empties most of it. */
static void random_calls_agree_with_the_model(void **state) {
    (void)state;
    uint64_t operations =
        number_from_environment("QUARRY_TEST_OPS", UNDER_SANITIZER ? 50000 : 200000);
    model.rng.state = test_seed();
    model.blocks = map_table(SLOTS * sizeof *model.blocks);
    model.sorted = map_table(SLOTS * sizeof *model.sorted);
    find_class_sizes();
    for (model.operation = 0; model.operation < operations; model.operation++) {
        run_operation();
        if (model.operation % OVERLAP_CHECK_INTERVAL == 0)
            check_overlaps();
        if (rng_below(&model.rng, 20000) == 0) {
            for (size_t i = 0; i < SLOTS; i++) {
                if (model.blocks[i].address != NULL && rng_below(&model.rng, 16) != 0)
                    release(&model.blocks[i]);
            }
        }
    }
    check_overlaps();
    for (size_t i = 0; i < SLOTS; i++) {
        if (model.blocks[i].address != NULL)
            release(&model.blocks[i]);
    }
    assert_int_equal(model.live_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_calls_agree_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
