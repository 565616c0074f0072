/* SPDX-License-Identifier: MIT
 *
 * traced.c: calls in a known order, and ends that a recorder should survive (test_trace.py).
 *
 * usage: traced calls | threads | many-threads | fork | END
 * END is how a process ends that has called malloc and free 5000 times: return, _exit, kill,
 * segv, abort, exec, or close (all descriptors first, then _exit).
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAIRS 2500
#define PASSED 100
#define THREADS 200

static void *passed[PASSED];

/* What the test compares with the dump, line by line. */
static int make_calls(void) {
    void *first = malloc(100);
    void *zeros = calloc(10, 20);
    void *aligned = NULL;
    free(first);
    first = malloc(0);
    zeros = realloc(zeros, 300);
    if (posix_memalign(&aligned, 256, 50) != 0) {
        return 2;
    }
    free(memalign(64, 10));
    free(aligned_alloc(32, 64));
    free(valloc(1));
    free(pvalloc(1));
    free(NULL);
    aligned = realloc(aligned, 0);
    first = realloc(first, 5);
    errno = 0;
    if (malloc((size_t)1 << 62) != NULL || errno != ENOMEM || realloc(first, (size_t)1 << 62)) {
        return 3;
    }
    errno = EPERM;
    free(first);
    free(realloc(NULL, 7));
    return errno == EPERM && aligned == NULL ? 0 : 4;
}

static void pair(void) {
    for (int i = 0; i < PAIRS; i++) {
        free(malloc((size_t)i));
    }
}

static void *allocate_all(void *unused) {
    for (int i = 0; i < PASSED; i++) {
        passed[i] = malloc(1000);
        memset(passed[i], i, 1000);
    }
    return unused;
}

static void *free_half(void *unused) {
    for (int i = 0; i < PASSED / 2; i++) {
        free(passed[i]);
    }
    return unused;
}

static void run_thread(void *(*function)(void *)) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, NULL) != 0 || pthread_join(thread, NULL) != 0) {
        _exit(5);
    }
}

static void *pair_in_thread(void *unused) {
    pair();
    return unused;
}

static int fork_children(void) {
    pair();
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            pair();
            _exit(0);
        }
        int status = 0;
        if (wait(&status) < 0 || status != 0) {
            return 6;
        }
    }
    pair();
    return 0;
}

static int end(const char *how) {
    pair();
    if (strcmp(how, "_exit") == 0) {
        _exit(0);
    } else if (strcmp(how, "kill") == 0) {
        raise(SIGKILL);
    } else if (strcmp(how, "segv") == 0) {
        raise(SIGSEGV);
    } else if (strcmp(how, "abort") == 0) {
        abort();
    } else if (strcmp(how, "exec") == 0) {
        execl("/proc/self/exe", "traced", "return", (char *)NULL);
    } else if (strcmp(how, "close") == 0) {
        for (int fd = 0; fd < 1024; fd++) {
            close(fd);
        }
        pair();
        _exit(0);
    }
    return strcmp(how, "return") == 0 ? 0 : 7;
}

int main(int count, char **arguments) {
    const char *what = count == 2 ? arguments[1] : "";
    if (strcmp(what, "calls") == 0) {
        return make_calls();
    }
    if (strcmp(what, "threads") == 0) {
        run_thread(allocate_all);
        run_thread(free_half);
        free(passed[PASSED - 1]);
        return 0;
    }
    if (strcmp(what, "many-threads") == 0) {
        for (int i = 0; i < THREADS; i++) {
            run_thread(pair_in_thread);
        }
        return 0;
    }
    return strcmp(what, "fork") == 0 ? fork_children() : end(what);
}
