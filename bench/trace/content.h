/* SPDX-License-Identifier: MIT
 *
 * content.h: what the player writes into the blocks, and finds again.
 *
 * The content follows from a key. Usually only a word at the start, one in each page and one at the
 * end are written: the trace does not know what the program touched. With `all`, every byte is.
 */
#ifndef TRACE_CONTENT_H
#define TRACE_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t content_key(uint32_t block, uint32_t generation);
void content_write(unsigned char *at, size_t size, uint64_t key, bool all);
/* Checks a block of size bytes of which the first `kept` were kept. Returns the offset of the first
 * wrong byte, or kept if there is none. */
size_t content_check(const unsigned char *at, size_t size, size_t kept, uint64_t key, bool all);
/* The offset of the first byte that is not 0 where content_write would write, or size. */
size_t content_check_zero(const unsigned char *at, size_t size, bool all);

#endif /* TRACE_CONTENT_H */
