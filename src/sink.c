/* SPDX-License-Identifier: MIT
 *
 * sink: see sink.h.
 */
#include "sink.h"

#include <stdarg.h>
#include <string.h>

enum { DIGITS_BYTES = 24 };

void sink_end(struct sink *sink) {
    if (sink->length)
        sink->write(sink->target, sink->text, sink->length);
    sink->length = 0;
}

static void add(struct sink *sink, const char *text, size_t bytes) {
    for (; bytes > 0; bytes--) {
        if (sink->length == sizeof sink->text)
            sink_end(sink);
        sink->text[sink->length++] = *text++;
    }
}

static void pad(struct sink *sink, size_t have, size_t width) {
    for (; have < width; have++)
        add(sink, " ", 1);
}

/* The digits of a number, at the end of a buffer. */
static const char *digits_of(size_t number, char buffer[DIGITS_BYTES]) {
    char *at = &buffer[DIGITS_BYTES - 1];
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    return at;
}

void sink_print(struct sink *sink, const char *format, ...) {
    char buffer[DIGITS_BYTES];
    va_list arguments;
    va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            add(sink, format, 1);
            continue;
        }
        bool left = *++format == '-';
        size_t width = 0;
        for (format += left; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (size_t)(*format - '0');
        const char *text;
        /* NOLINTBEGIN(clang-analyzer-valist.Uninitialized): the analyzer does not know va_start */
        if (*format == 's')
            text = va_arg(arguments, const char *);
        else
            text = digits_of(va_arg(arguments, size_t), buffer);
        /* NOLINTEND(clang-analyzer-valist.Uninitialized) */
        format += *format == 'z'; /* %zu */
        size_t length = strlen(text);
        pad(sink, left ? width : length, width);
        add(sink, text, length);
        pad(sink, left ? length : width, width);
    }
    va_end(arguments);
}
