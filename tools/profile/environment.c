/* SPDX-License-Identifier: MIT
 *
 * environment.c: see environment.h.
 */
#include "environment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim/quiet.h"

#define RATE_DEFAULT (512u << 10)
#define RATE_DEFAULT_TEXT "524288"
#define RATE_END (UINT64_C(1) << 40) /* that of quarry profile */
#define SUFFIX_BYTES 32              /* .PID */

struct environment environment;

/* ---- Messages -------------------------------------------------------------------------------- */

/* One line, whatever the value is, and one write. */
static void tell(const char *variable, const char *value, const char *what, const char *why,
                 const char *remedy) {
    static char line[ENVIRONMENT_PATH_BYTES + 512];
    char *at = quiet_put_text(line, "quarry: ");
    at = quiet_put_text(quiet_put_text(at, variable), ": '");
    for (const char *from = value; *from != '\0' && from - value < ENVIRONMENT_PATH_BYTES; from++) {
        *at++ = *from;
        if ((unsigned char)*from < ' ' || *from == '\x7f') {
            at[-1] = '?';
        }
    }
    at = quiet_put_text(quiet_put_text(quiet_put_text(at, what), why), remedy);
    *at++ = '\n';
    syscall(SYS_write, 2, line, (size_t)(at - line));
}

static const char *remedy_for(int error) {
    switch (error) {
    case EEXIST: /* what is no file is not replaced */
        return "): there is no profile; it is no regular file, so name another one";
    case ENOMEM:
        return "): there is no profile; allow the process more memory (ulimit -v)";
    case EDQUOT:
    case EFBIG:
    case ENOSPC:
        return "): there is no profile; name a file where there is room for one";
    case ENAMETOOLONG:
        return "): there is no profile; give a shorter name";
    default:
        return "): there is no profile; name a file in a folder that exists and can be written";
    }
}

void environment_tell_failure(const char *path, int error) {
    /* Others than this one translate, and may allocate. */
    const char *why = strerrordesc_np(error);
    tell("QUARRY_PROFILE_FILE", path, "' cannot be written (", why != NULL ? why : "unknown error",
         remedy_for(error));
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Decimal digits; then K, M or G, for powers of 1024, and behind it nothing, B or iB. */
static bool parse_rate(const char *text, uint64_t *rate) {
    static const char units[] = "KMGkmg";
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint64_t)(*text - '0');
        if (value >= RATE_END) {
            return false;
        }
    }
    const char *unit = *text != '\0' ? strchr(units, *text) : NULL;
    unsigned shift = unit != NULL ? 10 * (unsigned)((unit - units) % 3 + 1) : 0;
    const char *rest = text + (unit != NULL);
    bool whole =
        *rest == '\0' || (unit != NULL && (strcmp(rest, "B") == 0 || strcmp(rest, "iB") == 0));
    *rate = value << shift;
    return whole && value > 0 && value < RATE_END >> shift;
}

static void read_rate(void) {
    const char *given = getenv("QUARRY_PROFILE_RATE");
    if (given != NULL && given[0] != '\0' && !parse_rate(given, &environment.rate)) {
        environment.rate = RATE_DEFAULT;
        tell("QUARRY_PROFILE_RATE", given, "' is no number of bytes from 1 (every block) to 1023G",
             "", ", as in 64K; the default, " RATE_DEFAULT_TEXT ", is taken");
    }
}

/* The directory that a relative name is in, with a slash; "" for an absolute one. 0, or an error number. */
static int find_folder(char folder[static ENVIRONMENT_PATH_BYTES], const char *name) {
    folder[0] = '\0';
    if (name[0] == '/') {
        return 0;
    }
    if (syscall(SYS_getcwd, folder, ENVIRONMENT_PATH_BYTES - 1) < 0) {
        return errno;
    }
    folder[strlen(folder) + 1] = '\0';
    folder[strlen(folder)] = '/';
    return folder[0] == '/' ? 0 : ENOENT; /* "(unreachable)" */
}

static void read_file(const char *name) {
    char folder[ENVIRONMENT_PATH_BYTES];
    int error = find_folder(folder, name);
    if (error != 0) {
        const char *why = strerrordesc_np(error);
        tell("QUARRY_PROFILE_FILE", name, "' is in a directory that cannot be told (",
             why != NULL ? why : "unknown error", "): there is no profile; give an absolute path");
    } else if (strlen(folder) + strlen(name) > sizeof environment.file - SUFFIX_BYTES) {
        environment_tell_failure(name, ENAMETOOLONG);
    } else {
        *quiet_put_text(quiet_put_text(environment.file, folder), name) = '\0';
    }
}

static bool is_command(void) {
    return environment.command != 0 && environment.command == (unsigned long)getpid();
}

void environment_read(void) {
    const char *file = secure_getenv("QUARRY_PROFILE_FILE");
    const char *command = getenv("QUARRY_PROFILE_PID");
    const char *seed = getenv("QUARRY_PROFILE_SEED");
    environment.rate = RATE_DEFAULT;
    environment.command = command != NULL ? strtoul(command, NULL, 10) : 0;
    environment.command_only = command != NULL && getenv("QUARRY_PROFILE_FOLLOW") == NULL;
    environment.seed_given = seed != NULL;
    environment.seed = seed != NULL ? strtoull(seed, NULL, 10) : 0;
    if (file != NULL && file[0] != '\0' && (is_command() || !environment.command_only)) {
        read_file(file);
        read_rate();
    }
}

bool environment_path(char path[static ENVIRONMENT_PATH_BYTES], bool forked) {
    bool command = !forked && is_command();
    if (environment.file[0] == '\0' || (!command && environment.command_only)) {
        return false;
    }
    char *end = quiet_put_text(path, environment.file);
    if (!command) {
        end = quiet_put_number(quiet_put_text(end, "."), (uint64_t)getpid());
    }
    *end = '\0';
    return true;
}
