/* SPDX-License-Identifier: MIT
 *
 * figures_support.c: what a workload, or the player of traces, finds out about its own process.
 *
 * Whichever worker notices that 10 ms have passed reads /proc/self/statm and adds up the live
 * bytes. A thread of its own for that would make programs multi-threaded that are not, and
 * allocators know faster ways while there is one thread. The kernel's count of resident pages may
 * lag by some 32 pages per processor.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

#define SAMPLE_SECONDS 0.01
/* Counting mappings takes the kernel longer, so only one sample in so many does. */
#define SAMPLES_PER_MAPS 50
/* While hardly anything is live, the ratio says nothing. */
#define LIVE_LEAST (256.0 * 1024.0)

static pthread_mutex_t sampling = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int64_t next_sample_ns;
static double level_bytes;

static struct {
    unsigned samples, ratios;
    double ratio_sum, rss_sum, live_sum, live_peak;
    double elapsed, rss_peak_kb, rss_idle_kb, vss_peak_kb;
    double mappings;
} seen;

void workload_fail(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): wrong where it reads several files */
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(2, "%s: %s\n", workload.name, text);
    _exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double seconds_now(void) {
    return (double)now_ns() * 1e-9;
}

/* Reads a file of /proc into text, as much as there is room for; exits if it cannot. */
static void read_file(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, room - 1);
    if (got < 0) {
        workload_fail("cannot read %s: %s", path, strerror(errno));
    }
    text[got] = '\0';
    close(fd);
}

static double resident_bytes(void) {
    char text[128];
    read_file("/proc/self/statm", text, sizeof text);
    const char *second = strchr(text, ' ');
    double pages = second ? strtod(second, NULL) : 0;
    return pages * (double)sysconf(_SC_PAGESIZE);
}

static double status_kb(const char *key) {
    char text[4096];
    read_file("/proc/self/status", text, sizeof text);
    const char *line = strstr(text, key);
    return line ? strtod(line + strlen(key), NULL) : 0;
}

static unsigned count_mappings(void) {
    char text[16384];
    unsigned lines = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t got = 0; fd >= 0 && (got = read(fd, text, sizeof text)) > 0;) {
        for (ssize_t at = 0; at < got; at++) {
            lines += text[at] == '\n';
        }
    }
    close(fd);
    return lines;
}

static void note_mappings(void) {
    double now = count_mappings();
    seen.mappings = now > seen.mappings ? now : seen.mappings;
}

static double live_bytes(void) {
    int64_t live = 0;
    for (unsigned i = 0; i < settings.threads; i++) {
        live += atomic_load_explicit(&workers[i].live, memory_order_relaxed);
    }
    return live > 0 ? (double)live : 0;
}

static void take_sample(void) {
    double live = live_bytes();
    double rss = resident_bytes() - level_bytes;
    seen.rss_sum += rss;
    seen.live_sum += live;
    seen.live_peak = live > seen.live_peak ? live : seen.live_peak;
    if (live >= LIVE_LEAST) {
        seen.ratios++;
        seen.ratio_sum += rss / live;
    }
    if (seen.samples++ % SAMPLES_PER_MAPS == 0) {
        note_mappings();
    }
}

void figures_begin(void) {
    level_bytes = resident_bytes();
    atomic_store(&next_sample_ns, now_ns() + (int64_t)(SAMPLE_SECONDS * 1e9));
}

void figures_sample(void) {
    if (settings.report == NULL) {
        return; /* A run that is timed: not even a look at the clock. */
    }
    int64_t now = now_ns();
    if (now < atomic_load(&next_sample_ns) || pthread_mutex_trylock(&sampling) != 0) {
        return;
    }
    take_sample();
    atomic_store(&next_sample_ns, now + (int64_t)(SAMPLE_SECONDS * 1e9));
    pthread_mutex_unlock(&sampling);
}

void figures_end(double elapsed) {
    seen.elapsed = elapsed;
    if (settings.report != NULL) {
        note_mappings();
        seen.rss_peak_kb = status_kb("VmHWM:");
        seen.vss_peak_kb = status_kb("VmPeak:");
    }
}

void figures_rest(void) {
    if (settings.idle > 0) {
        struct timespec left = {.tv_sec = (time_t)settings.idle};
        left.tv_nsec = (long)((settings.idle - (double)left.tv_sec) * 1e9);
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
        seen.rss_idle_kb = resident_bytes() / 1024;
    }
}

static void write_lines(FILE *file) {
    uint64_t operations = 0;
    for (unsigned i = 0; i < settings.threads; i++) {
        operations += workers[i].operations;
    }
    double samples = seen.samples > 0 ? seen.samples : 1;
    fprintf(file, "ops=%llu\n", (unsigned long long)operations);
    fprintf(file, "seconds=%.6f\n", seen.elapsed);
    fprintf(file, "ops_per_second=%.0f\n", (double)operations / seen.elapsed);
    fprintf(file, "rss_samples=%u\n", seen.samples);
    if (seen.ratios > 0) {
        fprintf(file, "rss_over_live_mean=%.4f\n", seen.ratio_sum / seen.ratios);
    }
    fprintf(file, "rss_mean_kb=%.0f\n", seen.rss_sum / samples / 1024);
    fprintf(file, "live_mean_bytes=%.0f\n", seen.live_sum / samples);
    fprintf(file, "live_peak_bytes=%.0f\n", seen.live_peak);
    fprintf(file, "rss_peak_kb=%.0f\n", seen.rss_peak_kb);
    if (settings.idle > 0) {
        fprintf(file, "rss_idle_kb=%.0f\n", seen.rss_idle_kb);
    }
    fprintf(file, "vss_peak_kb=%.0f\n", seen.vss_peak_kb);
    fprintf(file, "mappings=%.0f\n", seen.mappings);
}

void figures_write(void) {
    if (settings.report == NULL) {
        return;
    }
    FILE *file = fopen(settings.report, "w");
    if (file != NULL) {
        write_lines(file);
    }
    if (file == NULL || fclose(file) != 0) {
        workload_fail("cannot write the report %s: %s", settings.report, strerror(errno));
    }
}
