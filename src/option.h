/* SPDX-License-Identifier: MIT
 *
 * option.h: every parameter of the allocator, in one table (frozen: docs/OPTIONS.md).
 */
#ifndef QUARRY_OPTION_H
#define QUARRY_OPTION_H

#include "base.h"

enum {
    OPTION_BYTES = 1,    /* numbers may end with K, M, G or T */
    OPTION_AT_START = 2, /* read once; later it is too late */
    /* What mallopt does with a number that is out of range, as glibc: else it refuses it. */
    OPTION_LOW_BITS = 4, /* takes its bits that are in maximum */
    OPTION_AT_LEAST = 8, /* takes minimum, for what is below it */
    OPTION_PASSES = 16,  /* says yes and does nothing */
};

struct option {
    const char *name;        /* as tools print it */
    const char *environment; /* variable, or NULL */
    const char *tunable;     /* key in GLIBC_TUNABLES after "glibc.malloc.", or NULL */
    int number;              /* of mallopt, or 0 */
    long minimum, maximum; /* a value outside is refused; -1 is always "all of it" where allowed */
    const char *words;     /* names for the values 0, 1, ..., separated by "|", or NULL */
    void (*apply)(size_t value);
    const char *help;
    unsigned long flags;
};

extern const struct option option_table[];
extern const unsigned option_count;

/* Appends the values that an option takes, as text for people. */
struct line;
void option_range(const struct option *option, struct line *line);

/* Reads the environment; called once, before the first allocation. */
void option_init(void);

/* Sets what the environment said, where it was not there yet at the first allocation. */
void option_late(void);

/* QUARRY_CONTROL: whether control.c has to start its thread. */
extern bool option_control;

/* Whether the user set an option (by index in the table), and to what, last of all. */
bool option_is_set(unsigned index, long *value);

/* The option with a name of the table, or NULL. */
const struct option *option_named(const char *name);

/* Sets an option to what the environment might say; false, and nothing done, if that is malformed or
 * out of range. */
bool option_set_text(const struct option *option, const char *text, long *value);

/* A number of bytes, with a suffix or without; false if it is none. */
bool option_parse_bytes(const char *text, size_t *bytes);

/* Whether the user wants to be told of what is wrong with his settings. */
bool option_verbose(void);

/* As if the user had not set it, for those who report it. */
void option_forget(const struct option *option);

/* mallopt: 1 if accepted (unknown parameters are, as in glibc), 0 if the value is refused. */
int option_set(int number, int value);

#endif
