/* SPDX-License-Identifier: MIT
 *
 * base.h: what every layer shares: page arithmetic, bit helpers, and the two strengths of
 * assertion.  No state, no functions that are not inline.  What a program does wrong is report.h's.
 *
 *   quarry_assert    debug builds (QUARRY_DEBUG): cheap checks of our own invariants
 *   *_verify()       whole-structure checks, called by tests
 */
#ifndef QUARRY_BASE_H
#define QUARRY_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The granule of the page map.  The system's page size is a multiple of it (os_page_bytes). */
#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

#define CACHE_LINE 64

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NOINLINE __attribute__((noinline))
#define SELDOM __attribute__((noinline, cold)) /* compiled for size, apart from what runs often */
#define ALWAYS_INLINE inline __attribute__((always_inline))

#ifdef QUARRY_DEBUG
#define quarry_assert(c) ((c) ? (void)0 : __builtin_trap())
#else
#define quarry_assert(c) ((void)0)
#endif

/* Shared words are read and written with these, so that every access that may race is visible in
 * the source and to ThreadSanitizer.  On x86-64 all four are plain moves. */
#define LOAD_RELAXED(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define LOAD_ACQUIRE(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE_RELAXED(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define STORE_RELEASE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* For the two fast paths: plain accesses, which the compiler may fold into other instructions.  What
 * is read never changes, or only grows, once it can matter; what is written is the thread's own, and
 * ORDER_STORES keeps the order that a fork child relies on. */
#ifdef __SANITIZE_THREAD__
#define LOAD_PLAIN(x) LOAD_RELAXED(x)
#define STORE_PLAIN(x, v) STORE_RELAXED(x, v)
#else
#define LOAD_PLAIN(x) (x)
#define STORE_PLAIN(x, v) ((void)((x) = (v)))
#endif
#define ORDER_STORES() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static inline size_t round_up(size_t n, size_t power_of_two) {
    return (n + power_of_two - 1) & ~(power_of_two - 1);
}

static inline size_t round_down(size_t n, size_t power_of_two) {
    return n & ~(power_of_two - 1);
}

static inline bool is_power_of_two(size_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

/* n if it is one; n is at most SIZE_MAX / 2 + 1 and not 0. */
static inline size_t power_of_two_from(size_t n) {
    return LIKELY(is_power_of_two(n)) ? n : (size_t)1 << (64 - (unsigned)__builtin_clzll(n));
}

/* Pages that hold n bytes; n is at most PTRDIFF_MAX. */
static inline size_t pages_for(size_t bytes) {
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

static inline size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Index of the lowest and of the highest bit; w is not 0. */
static inline unsigned bit_lowest(uint64_t w) {
    return (unsigned)__builtin_ctzll(w);
}

static inline unsigned bit_highest(uint64_t w) {
    return 63u - (unsigned)__builtin_clzll(w);
}

/* A word of eight bytes that are all the same. */
#define EACH_BYTE(value) ((value) * (uint64_t)0x0101010101010101)

/* The n lowest bits set; n is 0..64. */
static inline uint64_t bit_mask(unsigned n) {
    return n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
}

#endif
