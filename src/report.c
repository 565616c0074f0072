/* SPDX-License-Identifier: MIT
 *
 * report: what the program did wrong, in one line.
 *
 * The reasons, fixed so that scripts can look for them:
 *   not a block of this heap
 *   inside a block of N bytes that starts at ADDRESS
 *   already free
 *   never allocated
 *   size N does not fit a block of M bytes
 *   alignment N does not fit this block
 *   written beyond its N bytes; written beyond its end (so far that N is lost)
 *   written after it was freed
 *   there is no such cache (or heap); it may have been destroyed before
 */
#include "report.h"

#include "mapping.h"
#include "os.h"
#include "page.h"

#include <string.h>

void line_text(struct line *line, const char *text) {
    size_t room = sizeof line->text - line->length;
    size_t bytes = min_size(strlen(text), room);
    memcpy(line->text + line->length, text, bytes);
    line->length += bytes;
}

static void line_digits(struct line *line, size_t number, unsigned base) {
    char digits[24];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    line_text(line, digits + at);
}

void line_number(struct line *line, size_t number) {
    line_digits(line, number, 10);
}

void line_address(struct line *line, uintptr_t address) {
    line_text(line, "0x");
    line_digits(line, address, 16);
}

/* ---- misuse -------------------------------------------------------------------------------------- */

enum { ACTION_PRINT = 1, ACTION_ABORT = 2 };

static size_t action = ACTION_PRINT | ACTION_ABORT;

void report_set_action(size_t bits) {
    STORE_RELAXED(action, bits);
}

static void begin(struct line *line, const char *function, const void *pointer) {
    line->length = 0;
    line_text(line, "quarry: ");
    line_text(line, function);
    line_text(line, "(");
    line_address(line, (uintptr_t)pointer);
    line_text(line, "): ");
}

static void finish(struct line *line) {
    size_t bits = LOAD_RELAXED(action);
    line_text(line, "\n");
    if (bits & ACTION_PRINT)
        os_write_error(line->text, line->length);
    if (bits & ACTION_ABORT)
        os_abort();
}

static void finish_with(struct line *line, const char *reason) {
    line_text(line, reason);
    finish(line);
}

static void finish_inside(struct line *line, size_t usable, uintptr_t start) {
    line_text(line, "inside a block of ");
    line_number(line, usable);
    line_text(line, " bytes that starts at ");
    line_address(line, start);
    finish(line);
}

void report_slab_misuse(const char *function, const void *pointer, enum slab_status status) {
    struct line line;
    uintptr_t object = 0;
    bool is_free = false;
    begin(&line, function, pointer);
    unsigned class_index = slab_around((uintptr_t)pointer, &object, &is_free);
    if (status == SLAB_FREE)
        finish_with(&line, "already free");
    else if (status == SLAB_INTERIOR && class_index && object && !is_free)
        finish_inside(&line, size_classes[class_index].size, object);
    else
        finish_with(&line, status == SLAB_FOREIGN ? "not a block of this heap" : "never allocated");
}

void report_bad_pointer(const char *function, const void *pointer) {
    struct line line;
    uintptr_t address = (uintptr_t)pointer;
    begin(&line, function, pointer);
    size_t bytes = 0, pages = 0;
    uintptr_t mapping = mapping_around(address, &bytes), run = 0;
    bool absent = head_kind(pagemap_head(address)) == HEAD_ABSENT;
    if (mapping)
        finish_inside(&line, bytes, mapping);
    else if (absent)
        finish_with(&line, "not a block of this heap");
    else if ((run = page_run_around(address, &pages)) != 0)
        finish_inside(&line, pages << PAGE_SHIFT, run);
    else
        finish_with(&line, address % PAGE_BYTES == 0 ? "already free" : "never allocated");
}

void report_unknown(const char *function, const void *pointer, const char *kind) {
    struct line line;
    begin(&line, function, pointer);
    line_text(&line, "there is no such ");
    line_text(&line, kind);
    finish_with(&line, "; it may have been destroyed before");
}

void report_bad_size(const char *function, const void *pointer, size_t size, size_t usable) {
    struct line line;
    begin(&line, function, pointer);
    line_text(&line, "size ");
    line_number(&line, size);
    line_text(&line, " does not fit a block of ");
    line_number(&line, usable);
    finish_with(&line, " bytes");
}

void report_bad_alignment(const char *function, const void *pointer, size_t alignment) {
    struct line line;
    begin(&line, function, pointer);
    line_text(&line, "alignment ");
    line_number(&line, alignment);
    finish_with(&line, " does not fit this block");
}

void report_overrun(const char *function, const void *pointer, size_t size) {
    struct line line;
    begin(&line, function, pointer);
    line_text(&line, "written beyond its ");
    if (size != SIZE_MAX)
        line_number(&line, size);
    finish_with(&line, size == SIZE_MAX ? "end" : " bytes");
}

void report_late_write(const void *pointer) {
    struct line line;
    begin(&line, "free", pointer);
    finish_with(&line, "written after it was freed");
}
