/* SPDX-License-Identifier: MIT
 *
 * start: what the shared library has in place of the compiler's start files.
 *
 * WHY      Their part of a library's end (to run destructors for a dlclose, which this library has none of) is a page of code
 *          and one of data that each process touches when it exits, and copies where it was forked: two faults; and four names
 *          of theirs are looked up in every library when a program starts.
 */
#include "base.h"

/* By it libc knows which library asked to be called at a fork. */
extern void *const __dso_handle __attribute__((visibility("hidden")));
void *const __dso_handle = (void *)&__dso_handle;
