/* SPDX-License-Identifier: MIT
 *
 * recording.c: see recording.h.
 *
 * The raw logs lie in the directory FILE.recording until they are converted; it goes when all have
 * been. If this tool is killed, it stays, and --convert makes traces of what is in it.
 */
#include "recording.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "convert.h"
#include "tool.h"

#define LOGS_MOST 65536
#define NOT_RUN 127

/* A raw log, raw.PID.IMAGE.raw: a process is another image after each exec. */
struct log {
    unsigned pid, image;
    long long bytes;
};

/* ---- Paths ----------------------------------------------------------------------------------- */

static void join_path(char *out, const char *format, const char *first, const char *second) {
    int length = snprintf(out, PATH_MAX, format, first, second);
    if (length < 0 || length >= PATH_MAX) {
        tool_refuse("the path is too long: %s", first);
    }
}

static void make_absolute(char *out, const char *path) {
    char here[PATH_MAX];
    if (path[0] == '/') {
        join_path(out, "%s%s", path, "");
    } else if (getcwd(here, sizeof here) == NULL) {
        tool_fail("cannot tell the current directory: %s", strerror(errno));
    } else {
        join_path(out, "%s/%s", here, path);
    }
}

/* The first of the two places, relative to this program, that has the file. */
static void find_library(char *out, const char *name, const char *built, const char *installed) {
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) {
        tool_fail("cannot read /proc/self/exe: %s", strerror(errno));
    }
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    join_path(out, "%s/%s", self, built);
    if (access(out, R_OK) != 0) {
        join_path(out, "%s/%s", self, installed);
    }
    if (access(out, R_OK) != 0) {
        tool_fail("cannot find %s beside %s; build it: make all bench-programs", name, self);
    }
}

/* In the environment of this tool already: it runs nothing but the command. */
static void set_preload(const struct recording *recording) {
    char recorder[PATH_MAX];
    char allocator[PATH_MAX] = "";
    char both[3 * PATH_MAX];
    const char *before = getenv("LD_PRELOAD");
    find_library(recorder, "libquarry_trace.so", "libquarry_trace.so",
                 "../libexec/quarry/libquarry_trace.so");
    if (recording->library == NULL) {
        find_library(allocator, "libquarry.so", "../../release/libquarry.so",
                     "../libexec/quarry/libquarry.so");
    } else if (recording->library[0] != '\0') {
        make_absolute(allocator, recording->library);
        if (access(allocator, R_OK) != 0) {
            tool_refuse("cannot read the library %s: %s", allocator, strerror(errno));
        }
    }
    snprintf(both, sizeof both, "%s%s%s%s%s", recorder, allocator[0] ? ":" : "", allocator,
             before && before[0] ? ":" : "", before ? before : "");
    setenv("LD_PRELOAD", both, 1);
}

/* ---- The command ----------------------------------------------------------------------------- */

/* The child's word for its parent why it could not run the command; 0: it could. */
static int *share_error(void) {
    void *page = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        tool_fail("no memory to share with the command: %s", strerror(errno));
    }
    return page;
}

static _Noreturn void run_child(const struct recording *recording, const char *base, int *error) {
    char pid[32];
    setenv("QUARRY_TRACE_FILE", base, 1);
    if (recording->limit != NULL) {
        setenv("QUARRY_TRACE_LIMIT", recording->limit, 1);
    }
    if (recording->follow || recording->largest) {
        setenv("QUARRY_TRACE_FOLLOW", "1", 1);
    } else {
        snprintf(pid, sizeof pid, "%d", (int)getpid());
        setenv("QUARRY_TRACE_PID", pid, 1);
    }
    execvp(recording->command[0], recording->command);
    *error = errno;
    _exit(NOT_RUN);
}

/* Returns the command's status for the tool's, and its process, 0 if it could not be run. */
static int run_command(const struct recording *recording, const char *directory, pid_t *pid) {
    char base[PATH_MAX];
    int status = 0;
    int *error = share_error();
    join_path(base, "%s/%s", directory, "raw");
    *pid = fork();
    if (*pid == 0) {
        run_child(recording, base, error);
    }
    /* What the user types at the terminal is meant for the command; this tool has work to do. */
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    if (*pid < 0) {
        tool_fail("cannot start a process: %s", strerror(errno));
    }
    while (waitpid(*pid, &status, 0) < 0) {
        if (errno != EINTR) {
            tool_fail("cannot wait for %s: %s", recording->command[0], strerror(errno));
        }
    }
    signal(SIGINT, SIG_DFL);
    signal(SIGQUIT, SIG_DFL);
    if (*error != 0) {
        dprintf(2, "%s: cannot run %s: %s\n", tool_name, recording->command[0], strerror(*error));
        *pid = 0;
    }
    if (WIFSIGNALED(status)) {
        dprintf(2, "%s: %s died of signal %d (%s); the trace ends there\n", tool_name,
                recording->command[0], WTERMSIG(status), strsignal(WTERMSIG(status)));
        return 128 + WTERMSIG(status);
    }
    return WEXITSTATUS(status);
}

/* ---- Raw logs -------------------------------------------------------------------------------- */

static void log_path(char *out, const char *directory, const struct log *log) {
    char name[64];
    snprintf(name, sizeof name, "raw.%u.%u.raw", log->pid, log->image);
    join_path(out, "%s/%s", directory, name);
}

/* False if the name is not that of a log. */
static bool parse_log_name(const char *name, struct log *log) {
    static const char prefix[] = "raw.";
    char *end = NULL;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return false;
    }
    log->pid = (unsigned)strtoul(name + sizeof prefix - 1, &end, 10);
    if (*end != '.') {
        return false;
    }
    log->image = (unsigned)strtoul(end + 1, &end, 10);
    return strcmp(end, ".raw") == 0;
}

static size_t list_logs(const char *directory, struct log *logs) {
    size_t count = 0;
    char path[PATH_MAX];
    struct stat about;
    DIR *open_directory = opendir(directory);
    if (open_directory == NULL) {
        tool_fail("cannot read %s: %s", directory, strerror(errno));
    }
    for (struct dirent *entry; (entry = readdir(open_directory)) != NULL;) {
        struct log log = {0};
        if (!parse_log_name(entry->d_name, &log)) {
            continue;
        }
        if (count == LOGS_MOST) {
            tool_fail("more than %d processes: their logs are in %s", LOGS_MOST, directory);
        }
        log_path(path, directory, &log);
        log.bytes = stat(path, &about) == 0 ? (long long)about.st_size : 0;
        logs[count++] = log;
    }
    closedir(open_directory);
    return count;
}

/* Which log becomes FILE: the longest, or that of what the command was at last. */
static size_t choose_log(const struct recording *recording, const struct log *logs, size_t count,
                         unsigned pid) {
    size_t chosen = count;
    for (size_t i = 0; i < count; i++) {
        bool better = chosen == count;
        if (recording->largest) {
            better = better || logs[i].bytes > logs[chosen].bytes;
        } else if (logs[i].pid == pid) {
            better = better || logs[chosen].pid != pid || logs[i].image > logs[chosen].image;
        }
        chosen = better ? i : chosen;
    }
    return chosen;
}

static void make_trace(const char *raw, const char *file) {
    struct trace_header header;
    if (!convert(raw, file, &header)) {
        return;
    }
    dprintf(2, "%s: %s: %s, %llu calls in %u threads, at most %llu bytes live%s\n", tool_name, file,
            header.command, (unsigned long long)header.calls, header.threads,
            (unsigned long long)header.live_peak,
            header.flags & TRACE_INCOMPLETE ? "; INCOMPLETE: no space, or the --limit was reached"
                                            : "");
}

static void convert_all(const struct recording *recording, const char *directory, unsigned pid) {
    struct log *logs = tool_map(LOGS_MOST * sizeof *logs);
    size_t count = list_logs(directory, logs);
    size_t chosen = choose_log(recording, logs, count, pid);
    if (count == 0) {
        dprintf(2,
                "%s: %s called no allocator that could be recorded: is it statically linked, or"
                " set-user-ID?\n",
                tool_name, recording->command[0]);
    }
    for (size_t i = 0; i < count; i++) {
        char raw[PATH_MAX];
        char file[PATH_MAX];
        char suffix[64] = "";
        log_path(raw, directory, &logs[i]);
        if (i != chosen) {
            snprintf(suffix, sizeof suffix, logs[i].image ? ".%u.%u" : ".%u", logs[i].pid,
                     logs[i].image);
        }
        join_path(file, "%s%s", recording->file, suffix);
        if (i == chosen || recording->follow) {
            make_trace(raw, file);
        }
        unlink(raw);
    }
    tool_unmap(logs, LOGS_MOST * sizeof *logs);
}

int record_command(const struct recording *recording) {
    char file[PATH_MAX];
    char directory[PATH_MAX];
    pid_t pid = 0;
    make_absolute(file, recording->file);
    join_path(directory, "%s%s", file, ".recording");
    set_preload(recording);
    if (mkdir(directory, 0700) != 0) {
        if (errno == EEXIST) {
            tool_fail("%s is there already: convert what is in it (--convert), or remove it",
                      directory);
        }
        tool_fail("cannot make the directory %s: %s", directory, strerror(errno));
    }
    int status = run_command(recording, directory, &pid);
    if (pid != 0) {
        unlink(file); /* it would pass for what the command did, if that cannot be recorded */
        convert_all(recording, directory, (unsigned)pid);
    }
    rmdir(directory);
    return status;
}
