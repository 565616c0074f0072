/* SPDX-License-Identifier: MIT
 *
 * semantics: what C, POSIX and glibc say about the calls that are not malloc and free.
 *
 * Where glibc 2.36 and the standards leave a choice, glibc's is made; docs/COMPAT.md lists them.
 */
#include "api.h"
#include "control.h"
#include "option.h"
#include "os.h"

#include <string.h>

void *api_calloc(size_t count, size_t size) {
    size_t bytes;
    if (UNLIKELY(__builtin_mul_overflow(count, size, &bytes))) {
        errno = ENOMEM;
        return NULL;
    }
    if (LIKELY(bytes <= SMALL_MAX)) {
        void *object = cache_pop(sizeclass_for(bytes));
        if (LIKELY(object != NULL))
            return memset(object, 0, bytes);
    }
    return api_or_enomem(heap_allocate_zero(bytes));
}

void *api_realloc(void *block, size_t size) {
    if (!block)
        return api_malloc(size);
    if (size == 0) {
        heap_free(block, "realloc");
        return NULL;
    }
    return api_or_enomem(heap_resize(block, size));
}

void api_free_sized(void *block, size_t size) {
    if (block && (heap_passes_on(block) || heap_check_size(block, size, "free_sized")))
        heap_free(block, "free_sized");
}

void api_free_aligned_sized(void *block, size_t alignment, size_t size) {
    if (block && (heap_passes_on(block) ||
                  heap_check_alignment(block, alignment, size, "free_aligned_sized")))
        heap_free(block, "free_aligned_sized");
}

/* alignment is a power of two. */
static void *aligned(size_t alignment, size_t size) {
    unsigned class_index = sizeclass_aligned(size, alignment);
    heap_note_aligned(class_index, size);
    void *object = cache_pop(class_index); /* class 0: bin 0 is empty */
    return LIKELY(object != NULL) ? object : api_or_enomem(heap_allocate_aligned(alignment, size));
}

void *api_memalign(size_t alignment, size_t size) {
    if (alignment > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    if (alignment <= SIZE_GRAIN)
        return api_malloc(size);
    return aligned(power_of_two_from(alignment), size);
}

int api_posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) != 0 || !is_power_of_two(alignment))
        return EINVAL;
    void *block = alignment <= SIZE_GRAIN ? api_malloc(size) : aligned(alignment, size);
    if (!block)
        return ENOMEM;
    *out = block;
    return 0;
}

void *api_valloc(size_t size) {
    return aligned(os_page_bytes(), size);
}

void *api_pvalloc(size_t size) {
    if (size > PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    return aligned(os_page_bytes(), round_up(max_size(size, 1), os_page_bytes()));
}

size_t api_usable_size_slow(void *block) {
    return block ? heap_usable(block, "malloc_usable_size") : 0;
}

int api_mallopt(int param, int value) {
    heap_enter();
    return option_set(param, value);
}

int api_malloc_trim(size_t pad) {
    return heap_trim(pad) != 0;
}

/* Programs whose first allocation comes before libc has an environment get it here. */
__attribute__((constructor)) static void read_late_environment(void) {
    heap_enter();
    option_late();
    if (option_control)
        control_start();
}
