/* SPDX-License-Identifier: MIT
 *
 * quarry.h: the one public header of Quarry, a malloc for Linux.
 *
 * A program normally needs none of this: preload libquarry.so, or link libquarry, and malloc, free
 * and their family are Quarry's.  The names below give the same functions under a prefix of their
 * own, so that a program can hold both allocators at once.  Never pass a block of one allocator to
 * a function of the other, except where libquarry provides malloc itself: there both are the same.
 * Where it does not, both move the program break, and sbrk is not thread-safe: in a program with
 * threads, see to it that only one of the two grows by the break while they run.
 *
 * Unless a comment says otherwise every function is thread-safe (MT-Safe), is not a cancellation
 * point, is not async-signal-safe, takes sizes in bytes, and sets errno only when it fails.
 */
#ifndef QUARRY_H
#define QUARRY_H

#include <malloc.h> /* struct mallinfo, struct mallinfo2 and the M_ parameters */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUARRY_VERSION_MAJOR 0
#define QUARRY_VERSION_MINOR 1
#define QUARRY_VERSION_PATCH 0

#if defined(__GNUC__)
#define QUARRY_API __attribute__((visibility("default")))
#define QUARRY_ATTR(...) __attribute__((__VA_ARGS__))
#else
#define QUARRY_API
#define QUARRY_ATTR(...)
#endif

/* The version of the library that is running, "MAJOR.MINOR.PATCH"; a static string. */
QUARRY_API const char *quarry_version(void);

/* ---- Allocation ------------------------------------------------------------------------------
 * All blocks are aligned to at least 16 bytes.  A size of 0 gives a unique block that must be
 * freed.  Failure (no memory, or a size above PTRDIFF_MAX) returns NULL and sets errno to ENOMEM.
 */

/* Allocates size bytes, not initialised.  ISO C, POSIX. */
QUARRY_API void *quarry_malloc(size_t size) QUARRY_ATTR(malloc, alloc_size(1));

/* Allocates count * size bytes, all zero; fails with ENOMEM where the product overflows. */
QUARRY_API void *quarry_calloc(size_t count, size_t size) QUARRY_ATTR(malloc, alloc_size(1, 2));

/* Resizes a block and keeps its content up to the smaller size; the address may change.
 * realloc(NULL, n) is malloc(n).  realloc(p, 0) frees p and returns NULL, errno unchanged, as glibc
 * does.  On failure the old block is untouched.  Growing a block of malloc, calloc or realloc within its
 * malloc_usable_size never moves it (one of memalign may: docs/COMPAT.md). */
QUARRY_API void *quarry_realloc(void *block, size_t size) QUARRY_ATTR(alloc_size(2));

/* Frees a block; NULL is ignored; errno is preserved (POSIX.1-2024).  A pointer that is not a live
 * block of this allocator is reported in one line on stderr and the process is aborted: at once, or where
 * the thread uses the size a lot when its cache spills, unless the block was handed out again meanwhile.
 * QUARRY_CHECK=1 makes it at once for all, QUARRY_CANARY and QUARRY_QUARANTINE find wrong writes; M_CHECK_ACTION may leave out the line or the abort. */
QUARRY_API void quarry_free(void *block);

/* C23: free with the size the block was asked for.  The size is checked, never trusted: one that
 * cannot belong to the block is reported and aborts, as quarry_free does. */
QUARRY_API void quarry_free_sized(void *block, size_t size);
QUARRY_API void quarry_free_aligned_sized(void *block, size_t alignment, size_t size);

/* Aligned allocation.  memalign and aligned_alloc round an alignment that is no power of two up to
 * the next one, as glibc 2.36 does; above SIZE_MAX/2+1 they fail with EINVAL. */
QUARRY_API void *quarry_memalign(size_t alignment, size_t size) QUARRY_ATTR(malloc, alloc_size(2));
QUARRY_API void *quarry_aligned_alloc(size_t alignment, size_t size)
    QUARRY_ATTR(malloc, alloc_size(2));

/* POSIX: returns 0, EINVAL (alignment no power-of-two multiple of sizeof(void *)) or ENOMEM; *out
 * is written only on success. */
QUARRY_API int quarry_posix_memalign(void **out, size_t alignment, size_t size);

/* Page-aligned allocation; pvalloc also rounds the size up to whole pages. */
QUARRY_API void *quarry_valloc(size_t size) QUARRY_ATTR(malloc, alloc_size(1));
QUARRY_API void *quarry_pvalloc(size_t size) QUARRY_ATTR(malloc);

/* The bytes that may be used in a live block, at least what was asked for, constant while it
 * lives; 0 for NULL. */
QUARRY_API size_t quarry_malloc_usable_size(void *block);

/* ---- Control and statistics (semantics of glibc's functions of the same name) ----------------- */

/* Sets an allocator parameter (M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, ...).  Returns 1 if
 * accepted (also for parameters that are unknown, as glibc does), 0 if the value is out of range. */
QUARRY_API int quarry_mallopt(int param, int value);

/* Parameters that glibc has no number for; docs/OPTIONS.md tells what they do. */
#define QUARRY_M_TCACHE_COUNT (-1001)
#define QUARRY_M_TCACHE_MAX (-1002)
#define QUARRY_M_HUGETLB (-1003)
#define QUARRY_M_CHECK (-1004)
#define QUARRY_M_FOREIGN (-1005) /* 0: abort, 1: leak, 2: libc */
#define QUARRY_M_HEADROOM (-1006)
#define QUARRY_M_ZERO (-1007)
#define QUARRY_M_QUARANTINE (-1008)
#define QUARRY_M_HUGE_SHARE (-1009)
#define QUARRY_M_DRAIN (-1010) /* 0: never, 1: asked, 2: idle */

/* Returns to the kernel what can be: what threads have cached (of other threads' caches all but a block of
 * each size), free runs, free pages inside slabs, and the top of the break except for pad bytes.
 * Returns 1 if any memory was released, else 0. */
QUARRY_API int quarry_malloc_trim(size_t pad);

/* What a trim has released, and why not more.  Fields are only ever added, at the end. */
struct quarry_trim_report {
    uint64_t released_bytes;
    uint64_t cached_elsewhere_bytes; /* what stays in other threads' caches */
    uint64_t free_beside_live_bytes; /* free objects on pages that hold others */
    uint64_t refused_bytes;          /* free pages that the kernel keeps (mlock), or below pad */
};

/* The same as quarry_malloc_trim, and fills in the first bytes of *report. */
QUARRY_API int quarry_trim(size_t pad, struct quarry_trim_report *report, size_t bytes);

/* Limits what the allocator holds (blocks, caches, free pages, its own tables) to so many bytes; 0: no
 * limit.  Where a request would exceed it, free pages go back to the kernel; where it still would,
 * it fails with ENOMEM.  The same as QUARRY_LIMIT in the environment. */
QUARRY_API void quarry_set_limit(size_t bytes);

/* Counts of what the allocator holds; mallinfo has int fields, which wrap. */
QUARRY_API struct mallinfo2 quarry_mallinfo2(void);
QUARRY_API struct mallinfo quarry_mallinfo(void);

/* Writes a summary to stderr in glibc's format. */
QUARRY_API void quarry_malloc_stats(void);

/* Writes the state as XML to stream.  options must be 0; any other value returns EINVAL. */
QUARRY_API int quarry_malloc_info(int options, FILE *stream);

/* ---- Object caches -------------------------------------------------------------------------------
 * Objects of one type, which stay constructed while they are free, as in the kernel's kmem_cache.  The
 * memory of a free object is neither written to nor given back before its destructor has run; that
 * is what quarry_cache_reap is for.  A call takes a lock: a cache pays where construction costs more.
 */
#define QUARRY_CACHE_NAME_BYTES 32

struct quarry_cache;

/* name: for the statistics, up to 31 of letters, digits, '_', '-' and '.'; size: up to 1 MiB, 0 as 1; align:
 * a power of two up to 4096, 0 for 16.  ctor runs before an object is handed out for the first time and
 * returns 0, or something else to make that fail; dtor runs before its memory goes; both get arg, may
 * be NULL, and may use the heap but not the cache.  NULL and errno EINVAL or ENOMEM on failure. */
QUARRY_API struct quarry_cache *quarry_cache_create(const char *name, size_t size, size_t align,
                                                    int (*ctor)(void *object, void *arg),
                                                    void (*dtor)(void *object, void *arg),
                                                    void *arg);

/* An object in constructed state; NULL and ENOMEM on failure. */
QUARRY_API void *quarry_cache_alloc(struct quarry_cache *cache);

/* Takes an object back, in constructed state; NULL is ignored, a pointer that is no live object of the
 * cache is reported and aborts. */
QUARRY_API void quarry_cache_free(struct quarry_cache *cache, void *object);

/* Destructs free objects where a whole slab is free, and gives its memory back to the heap; returns
 * the bytes. */
QUARRY_API size_t quarry_cache_reap(struct quarry_cache *cache);

/* Destructs all objects and removes the cache; returns 0, or EBUSY where objects are live.  What is no
 * cache, or no longer, is reported and aborts (EINVAL where M_CHECK_ACTION says otherwise). */
QUARRY_API int quarry_cache_destroy(struct quarry_cache *cache);

struct quarry_cache_stats {
    char name[QUARRY_CACHE_NAME_BYTES];
    uint64_t size; /* of an object, rounded up to its alignment */
    uint64_t slabs, bytes;
    uint64_t live_objects, free_objects;
};

/* Fills in up to count caches, newest first; returns how many there are. */
QUARRY_API size_t quarry_cache_stats(struct quarry_cache_stats *caches, size_t count);

/* ---- Heaps ---------------------------------------------------------------------------------------
 * What was allocated from a heap can be freed block by block, and goes as a whole with the heap: the
 * memory of a request, a document, a plug-in.  Any thread may use any heap.  A call takes a lock; no
 * block is in a thread's cache.  Blocks are aligned to 16 bytes; free() and realloc() refuse them. */
struct quarry_heap;

/* NULL and ENOMEM on failure.  An empty heap holds 8 KiB. */
QUARRY_API struct quarry_heap *quarry_heap_create(void);

/* As malloc, calloc and realloc, from this heap; to resize to 0 bytes is to resize to 1. */
QUARRY_API void *quarry_heap_malloc(struct quarry_heap *heap, size_t size);
QUARRY_API void *quarry_heap_calloc(struct quarry_heap *heap, size_t count, size_t size);
QUARRY_API void *quarry_heap_realloc(struct quarry_heap *heap, void *block, size_t size);

/* NULL is ignored, a pointer that is no live block of the heap is reported and aborts. */
QUARRY_API void quarry_heap_free(struct quarry_heap *heap, void *block);

/* The bytes that the heap holds for blocks, live or free. */
QUARRY_API size_t quarry_heap_bytes(const struct quarry_heap *heap);

/* Frees all blocks and the heap, which no thread may use any more; NULL is ignored, what is no heap, or
 * no longer, is reported and aborts. */
QUARRY_API void quarry_heap_destroy(struct quarry_heap *heap);

/* ---- Figures ------------------------------------------------------------------------------------
 * docs/STATS.md defines each figure and says how far it may be trusted while threads run. */

#define QUARRY_STATS_VERSION 1

/* Fields are only ever added, at the end; their meaning changes only with the version. */
struct quarry_stats {
    uint32_t version; /* QUARRY_STATS_VERSION of the library */
    uint32_t bytes;   /* how many bytes of this structure it has filled in */
    /* The heap: heap = live + cached + free objects + dirty + clean. */
    uint64_t heap_bytes, heap_peak_bytes;
    uint64_t live_bytes, cached_bytes, free_object_bytes, dirty_bytes, clean_bytes;
    uint64_t top_bytes;
    /* Blocks that are mappings of their own. */
    uint64_t mapped_bytes, mapped_peak_bytes, mapped_blocks, mapped_peak_blocks;
    /* The allocator itself. */
    uint64_t metadata_bytes, caches, cache_capacity_bytes;
    /* Giving back. */
    uint64_t bound_bytes, purged_bytes, trimmed_bytes, purge_refused;
    /* The ledger: each resident byte once, and what is live and not resident. */
    uint64_t resident_live_bytes, resident_cached_bytes, resident_free_bytes;
    uint64_t resident_dirty_bytes, resident_metadata_bytes, resident_bytes;
    uint64_t untouched_bytes;
    /* QUARRY_LIMIT. */
    uint64_t limit_bytes, limit_refusals; /* 0: there is no limit */
};

/* Fills in the first bytes of *stats, at most what the library knows; returns how many these are.
 * Call it as quarry_stats(&stats, sizeof stats). */
QUARRY_API size_t quarry_stats(struct quarry_stats *stats, size_t bytes);

/* A size class; taken objects are live or in threads' caches. */
struct quarry_class_stats {
    uint64_t size;
    uint64_t slabs, partial_slabs;
    uint64_t taken_objects, cached_objects, free_objects;
};

/* Fills in up to count classes, smallest first; returns how many there are. */
QUARRY_API size_t quarry_class_stats(struct quarry_class_stats *classes, size_t count);

enum quarry_format { QUARRY_TEXT, QUARRY_JSON, QUARRY_OPENMETRICS };

/* Writes all figures to stream, of object caches the number and those of the 64 newest; returns 0, or
 * EINVAL if there is no such format.  They are read before anything is written: stdio may allocate. */
QUARRY_API int quarry_write_stats(FILE *stream, enum quarry_format format);

/* ---- Looking from outside ----------------------------------------------------------------------
 * quarry_public tells a debugger or a monitor where the allocator's own structures lie and how they
 * are laid out: addresses, offsets, strides and constants by name (docs/FORMATS.md lists them).  It
 * is constant; what it points to is live and is read without stopping the process.  Names are added
 * freely; one that is removed or changes its meaning raises the version. */
#define QUARRY_PUBLIC_MAGIC "QUARRY1"
#define QUARRY_PUBLIC_VERSION 5
#define QUARRY_PUBLIC_NAME_BYTES 32

struct quarry_public_field {
    char name[QUARRY_PUBLIC_NAME_BYTES];
    uint64_t value;
};

struct quarry_public {
    char magic[8];    /* QUARRY_PUBLIC_MAGIC */
    uint32_t version; /* QUARRY_PUBLIC_VERSION */
    uint32_t field_count;
    const struct quarry_public_field *field;
};

QUARRY_API extern const struct quarry_public quarry_public;

#ifdef __cplusplus
}
#endif
#endif /* QUARRY_H */
