/* SPDX-License-Identifier: MIT
 *
 * sink.h: text of any length, written piece by piece through a small buffer.
 *
 * Neither allocates nor uses stdio.  Fill in write and target, and call sink_end at the end.
 */
#ifndef QUARRY_SINK_H
#define QUARRY_SINK_H

#include "base.h"

enum { SINK_BYTES = 4096 };

struct sink {
    void (*write)(void *target, const char *text, size_t bytes);
    void *target;
    size_t length; /* of what is not written yet */
    char text[SINK_BYTES];
};

/* As printf, of which it knows %s and %zu, a width, and "-" for text on the left. */
void sink_print(struct sink *sink, const char *format, ...) __attribute__((format(printf, 2, 3)));

void sink_end(struct sink *sink);

#endif
