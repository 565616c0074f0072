/* SPDX-License-Identifier: MIT
 *
 * workload_support.c: main of every workload: options, threads, the result.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "workload.h"

struct settings settings = {.scale = 1.0, .seed = 1};
struct worker *workers;
static pthread_barrier_t start;

size_t workload_scaled(size_t count) {
    double scaled = round((double)count * settings.scale);
    return scaled < 1 ? 1 : (size_t)scaled;
}

void *workload_reserve(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        workload_fail("no memory for tables of %zu bytes: %s", bytes, strerror(errno));
    }
    return memory;
}

/* ---- Options --------------------------------------------------------------------------------- */

static unsigned most_threads(void) {
    return workload.maximum ? workload.maximum : WORKERS_MOST;
}

static void print_help(void) {
    printf("usage: %s [options]\n\n%s\n\n"
           "  --scale F         share of the usual work (default 1, a few seconds)\n"
           "  --threads N       workers, %u to %u (default %u)\n"
           "  --seed N          of the random choices (default 1)\n"
           "  --idle SECONDS    rest at the end, then note the RSS\n"
           "  --report FILE     write figures as lines key=value\n"
           "  --verify          write and check every byte, not a word per cache line: slower\n"
           "  --help            this text\n\n"
           "Prints how many blocks were found whole, and a checksum of them: the same text under\n"
           "every allocator. Exit status: 0, or 1 if a block had lost its content or memory ran\n"
           "out, or 2 for a wrong command line.\n",
           workload.name, workload.about, workload.minimum, most_threads(), workload.threads);
}

static _Noreturn void refuse(const char *option, const char *value, const char *wanted) {
    fprintf(stderr, "%s: --%s '%s': give %s; see --help\n", workload.name, option, value, wanted);
    exit(2);
}

static double parse_number(const char *option, const char *text, double least, double most) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= least && value <= most)) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a number from %g to %g", least, most);
        refuse(option, text, wanted);
    }
    return value;
}

static void parse_options(int count, char **arguments) {
    static const struct option options[] = {
        {"scale", required_argument, NULL, 's'},  {"threads", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 'r'},   {"idle", required_argument, NULL, 'i'},
        {"report", required_argument, NULL, 'f'}, {"verify", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    settings.threads = workload.threads;
    for (int option = 0; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            settings.scale = parse_number("scale", optarg, 1e-6, 1e6);
            break;
        case 't':
            settings.threads =
                (unsigned)parse_number("threads", optarg, workload.minimum, most_threads());
            break;
        case 'r':
            settings.seed = (uint64_t)parse_number("seed", optarg, 0, 1e15);
            break;
        case 'i':
            settings.idle = parse_number("idle", optarg, 0, 3600);
            break;
        case 'f':
            settings.report = optarg;
            break;
        case 'v':
            settings.verify = true;
            break;
        case 'h':
            print_help();
            exit(0);
        default:
            fprintf(stderr, "%s: see --help\n", workload.name);
            exit(2);
        }
    }
    if (optind < count) {
        fprintf(stderr, "%s: unexpected argument '%s'; see --help\n", workload.name,
                arguments[optind]);
        exit(2);
    }
}

/* ---- The run --------------------------------------------------------------------------------- */

static void *run_worker(void *argument) {
    pthread_barrier_wait(&start);
    workload.work(argument);
    return NULL;
}

/* One worker runs in the first thread, so that the process stays single-threaded. */
static double run_one(void) {
    double begun = seconds_now();
    workload.work(&workers[0]);
    return seconds_now() - begun;
}

static double run_many(void) {
    pthread_t *threads = workload_reserve(settings.threads * sizeof *threads);
    pthread_barrier_init(&start, NULL, settings.threads + 1);
    for (unsigned i = 0; i < settings.threads; i++) {
        int error = pthread_create(&threads[i], NULL, run_worker, &workers[i]);
        if (error != 0) {
            workload_fail("cannot start thread %u: %s; try fewer --threads", i, strerror(error));
        }
    }
    double begun = seconds_now();
    pthread_barrier_wait(&start);
    for (unsigned i = 0; i < settings.threads; i++) {
        pthread_join(threads[i], NULL);
    }
    return seconds_now() - begun;
}

/* Everything has to have been dropped, and so verified. */
static void print_result(void) {
    uint64_t verified = 0;
    uint64_t checksum = 0;
    int64_t left = 0;
    for (unsigned i = 0; i < settings.threads; i++) {
        verified += workers[i].verified;
        checksum += workers[i].checksum;
        left += atomic_load(&workers[i].live_many);
    }
    if (left != 0) {
        workload_fail("%lld blocks were never dropped", (long long)left);
    }
    printf("%s: %llu blocks verified, checksum %016llx\n", workload.name,
           (unsigned long long)verified, (unsigned long long)checksum);
}

int main(int count, char **arguments) {
    parse_options(count, arguments);
    workers = workload_reserve(settings.threads * sizeof *workers);
    for (unsigned i = 0; i < settings.threads; i++) {
        workers[i].index = i;
        draw_restart(&workers[i], i);
    }
    if (workload.setup != NULL) {
        workload.setup();
    }
    figures_begin();
    figures_end(settings.threads == 1 ? run_one() : run_many());
    figures_rest();
    if (workload.finish != NULL) {
        workload.finish(&workers[0]);
    }
    print_result();
    figures_write();
    return fflush(stdout) == 0 ? 0 : 1;
}
