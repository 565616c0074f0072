/* SPDX-License-Identifier: MIT
 *
 * test_misuse.c: a pointer that is no live block ends the program with the one right line, whichever
 * function it is passed to.
 */
#include "misuse_support.h"

/* ---- Foreign pointers ----------------------------------------------------------------------------- */

static void stack_pointer(const struct use *use) {
    char local[64] __attribute__((aligned(16))) = "";
    expect(use->function, local + 16, FOREIGN);
    use->call(local + 16);
}

static char static_bytes[65536] __attribute__((aligned(4096))) = "x";

static void static_pointer(const struct use *use) {
    expect(use->function, static_bytes + 4096, FOREIGN);
    use->call(static_bytes + 4096);
}

static void string_pointer(const struct use *use) {
    static const char text[] = "in read-only memory, at an odd address";
    expect(use->function, text + 1, FOREIGN);
    use->call((void *)(text + 1));
}

static void own_mapping(const struct use *use) {
    char *mapping = map_table(4 * MIB);
    expect(use->function, mapping + MIB, FOREIGN);
    use->call(mapping + MIB);
}

static void own_break(const struct use *use) {
    t_free(block_of(100));
    char *own = sbrk(64 * 1024);
    must(own != (char *)-1);
    for (int i = 0; i < 40; i++) /* the heap grows on the other side */
        (void)block_of(60000);
    expect(use->function, own + 8192, FOREIGN);
    use->call(own + 8192);
}

static void small_integer(const struct use *use) {
    expect(use->function, (void *)16, FOREIGN);
    use->call((void *)16);
}

static void odd_small_integer(const struct use *use) {
    expect(use->function, (void *)1, FOREIGN);
    use->call((void *)1);
}

static void kernel_address(const struct use *use) {
    expect(use->function, (void *)0xffff800000001000, FOREIGN);
    use->call((void *)0xffff800000001000);
}

static void non_canonical_address(const struct use *use) {
    expect(use->function, (void *)0x00d0c0ffee123450, FOREIGN);
    use->call((void *)0x00d0c0ffee123450);
}

static void tagged_pointer(const struct use *use) {
    char *block = block_of(100);
    char *tagged = (char *)((uintptr_t)block | (uintptr_t)1 << 60);
    expect(use->function, tagged, FOREIGN);
    use->call(tagged);
}

/* ---- Interior pointers ----------------------------------------------------------------------------- */

static void interior(const struct use *use, size_t size, size_t offset) {
    char *block = block_of(size);
    expect(use->function, block + offset, "inside a block of %zu bytes that starts at 0x%" PRIxPTR,
           t_malloc_usable_size(block), (uintptr_t)block);
    use->call(block + offset);
}

static void inside_small(const struct use *use) {
    interior(use, 200, 16);
}

static void inside_small_unaligned(const struct use *use) {
    interior(use, 200, 1);
}

static void inside_small_last_byte(const struct use *use) {
    interior(use, 200, 199);
}

static void inside_run(const struct use *use) {
    interior(use, 100000, 16);
}

static void inside_run_at_page(const struct use *use) {
    interior(use, 100000, 8192);
}

static void inside_run_last_byte(const struct use *use) {
    interior(use, 100000, 99999);
}

static void inside_mapping(const struct use *use) {
    interior(use, 70 * MIB, 16);
}

static void inside_mapping_far(const struct use *use) {
    interior(use, 70 * MIB, 33 * MIB);
}

/* ---- Freed blocks ------------------------------------------------------------------------------ */

static void freed(const struct use *use, size_t size) {
    char *block = block_of(size);
    t_free(block);
    expect(use->function, block, FREED);
    use->call(block);
}

static void freed_tiny(const struct use *use) {
    freed(use, 1);
}

static void freed_small(const struct use *use) {
    freed(use, 200);
}

static void freed_page(const struct use *use) {
    freed(use, 4096);
}

static void freed_medium(const struct use *use) {
    freed(use, 7000);
}

static void freed_run(const struct use *use) {
    freed(use, 100000);
}

static void freed_aligned(const struct use *use) {
    char *block = t_memalign(4096, 100);
    t_free(block);
    expect(use->function, block, FREED);
    use->call(block);
}

/* A mapping is gone when it is freed: nothing may be left that remembers it. */
static void freed_mapping(const struct use *use) {
    char *block = block_of(70 * MIB);
    t_free(block);
    expect_either(use->function, block, FOREIGN, FREED);
    use->call(block);
}

/* ---- Addresses of the heap that belong to no live block ------------------------------------------ */

/* A slab was cut for these blocks and has room for more: whether that room was ever given out is
 * known only as "free". */
static void beside_blocks(const struct use *use, size_t offset) {
    char *highest = NULL;
    for (size_t i = 0; i < 4; i++) {
        char *block = block_of(48);
        highest = block > highest ? block : highest;
    }
    expect_either(use->function, highest + offset, NEVER, FREED);
    use->call(highest + offset);
}

static void beside_small(const struct use *use) {
    beside_blocks(use, 48 * 8);
}

static void beside_small_unaligned(const struct use *use) {
    beside_blocks(use, 48 * 8 + 5);
}

/* Inside of what was a block, but not where it started. */
static void inside_freed(const struct use *use, size_t size, size_t offset) {
    char *block = block_of(size);
    t_free(block);
    expect_either(use->function, block + offset, NEVER, FREED);
    use->call(block + offset);
}

static void inside_freed_small(const struct use *use) {
    inside_freed(use, 200, 24);
}

static void inside_freed_run(const struct use *use) {
    inside_freed(use, 100000, 4096);
}

static void inside_freed_run_unaligned(const struct use *use) {
    inside_freed(use, 100000, 50001);
}

/* Of a size in heavy use: free looks no closer, but the next malloc of that size does. */
static void inside_cached_run(const struct use *use) {
    enum { SIZE = 20000, AT_ONCE = 4, ROUNDS = 200 };
    char *block[AT_ONCE];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++)
            block[i] = block_of(SIZE);
        for (int i = 0; i < AT_ONCE; i++)
            t_free(block[i]);
    }
    char *live = block_of(SIZE);
    expect(use->function, live + 16, "inside a block of %zu bytes that starts at 0x%" PRIxPTR,
           t_malloc_usable_size(live), (uintptr_t)live);
    use->call(live + 16);
    (void)t_malloc(SIZE);
    (void)t_malloc(SIZE);
}

/* A long block that is taken and freed in turn is kept for the next such request. */
static char *take_in_turn(size_t size) {
    char *block = NULL;
    for (int i = 0; i < 40; i++)
        t_free(block = block_of(size));
    return block;
}

static void freed_long(const struct use *use) {
    char *block = take_in_turn(500000);
    expect(use->function, block, FREED);
    use->call(block);
}

static void inside_freed_long(const struct use *use) {
    char *block = take_in_turn(500000);
    expect_either(use->function, block + 8192, NEVER, FREED);
    use->call(block + 8192);
}

static const struct misuse misuses[] = {
    MISUSE(stack_pointer, 100, EVERY_USE),
    MISUSE(static_pointer, 100, EVERY_USE),
    MISUSE(string_pointer, 100, EVERY_USE),
    MISUSE(own_mapping, 100, EVERY_USE),
    MISUSE(own_break, 100, EVERY_USE),
    MISUSE(small_integer, 100, EVERY_USE),
    MISUSE(odd_small_integer, 100, EVERY_USE),
    MISUSE(kernel_address, 100, EVERY_USE),
    MISUSE(non_canonical_address, 100, EVERY_USE),
    MISUSE(tagged_pointer, 100, EVERY_USE),
    MISUSE(inside_small, 200, EVERY_USE | SIZE_ANSWERED),
    MISUSE(inside_small_unaligned, 200, EVERY_USE | SIZE_ANSWERED | ON_GLIBC_TOO),
    MISUSE(inside_small_last_byte, 200, EVERY_USE | SIZE_ANSWERED),
    MISUSE(inside_run, 100000, EVERY_USE),
    MISUSE(inside_run_at_page, 100000, EVERY_USE),
    MISUSE(inside_run_last_byte, 100000, EVERY_USE),
    MISUSE(inside_mapping, 100000, EVERY_USE),
    MISUSE(inside_mapping_far, 100000, EVERY_USE),
    MISUSE(freed_tiny, 1, EVERY_USE | SIZE_ANSWERED | ON_GLIBC_TOO),
    MISUSE(freed_small, 200, EVERY_USE | SIZE_ANSWERED | ON_GLIBC_TOO),
    MISUSE(freed_page, 4096, EVERY_USE),
    MISUSE(freed_medium, 7000, EVERY_USE),
    MISUSE(freed_run, 100000, EVERY_USE),
    MISUSE(freed_aligned, 4096, EVERY_USE),
    MISUSE(freed_mapping, 100000, EVERY_USE),
    MISUSE(beside_small, 48, EVERY_USE | SIZE_ANSWERED),
    MISUSE(beside_small_unaligned, 48, EVERY_USE | SIZE_ANSWERED),
    MISUSE(inside_freed_small, 200, EVERY_USE | SIZE_ANSWERED),
    MISUSE(inside_freed_run, 100000, EVERY_USE),
    MISUSE(inside_freed_run_unaligned, 100000, EVERY_USE),
    MISUSE(inside_cached_run, 100000, 0),
    MISUSE(freed_long, 500000, EVERY_USE),
    MISUSE(inside_freed_long, 500000, EVERY_USE),
};

int main(int argc, char **argv) {
    return run_misuses(argc, argv, misuses, COUNT_OF(misuses));
}
