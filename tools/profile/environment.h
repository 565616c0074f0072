/* SPDX-License-Identifier: MIT
 *
 * environment.h: what the variables QUARRY_PROFILE_* say, as they are when the process starts: a child
 * of fork may have threads, and the program another environment or working directory. A value that
 * is none is told on standard error. Nothing here allocates or takes a lock; errno may change.
 */
#ifndef PROFILE_ENVIRONMENT_H
#define PROFILE_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>

#define ENVIRONMENT_PATH_BYTES 4096

struct environment {
    char file[ENVIRONMENT_PATH_BYTES]; /* an absolute path; "": no profile is wanted */
    bool command_only;                 /* of the command alone, not of others */
    unsigned long command;             /* its process; 0: none is named */
    uint64_t rate;
    bool seed_given;
    uint64_t seed;
};
extern struct environment environment;

/* Once, before the others. */
void environment_read(void);

/* FILE for the command, FILE.PID for others: its children, or all where no command is named. False:
 * of this process no profile is wanted. forked: it is a child of one whose environment was read. */
bool environment_path(char path[static ENVIRONMENT_PATH_BYTES], bool forked);

/* Tells why there is no profile, and what can be done. */
void environment_tell_failure(const char *path, int error);

#endif /* PROFILE_ENVIRONMENT_H */
