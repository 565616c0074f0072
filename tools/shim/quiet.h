/* SPDX-License-Identifier: MIT
 *
 * quiet.h: what a library that stands before the allocator may do inside malloc: nothing here
 * allocates, takes a lock, or is a cancellation point. errno may change.
 */
#ifndef SHIM_QUIET_H
#define SHIM_QUIET_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

int quiet_open(const char *path, int flags);
void quiet_close(int fd);

/* Makes sure that the file has these bytes, so that no store into a mapping of them can fail; what
 * they hold may be lost. 0, or an error number. */
int quiet_extend(int fd, uint64_t offset, size_t bytes);

/* The program's name, as ps shows it. */
void quiet_command(char *out, size_t room);

/* Append, and return the end; there is no '\0' yet. */
char *quiet_put_text(char *at, const char *text);
char *quiet_put_number(char *at, uint64_t number);

/* A number that is 1 here, and that the kernel makes 0 in children of fork. NULL: it cannot. */
_Atomic uint32_t *quiet_fork_mark(void);

#endif /* SHIM_QUIET_H */
