// SPDX-License-Identifier: MIT
//
// The C interface of gbench.h on Google Benchmark, and main.
#include "gbench.h"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

struct gbench {
    benchmark::State &state;
};

namespace {

// How long each benchmark repeats at scale 1.
constexpr double SECONDS = 0.08;

const char USAGE[] = "usage: %s [--scale F] [--report FILE] [--list] [--filter REGEX]\n"
                     "Times operations of the allocator that is preloaded.\n"
                     "  --scale F       repeat for F times as long as usual (1)\n"
                     "  --report FILE   also write lines ns.NAME=NANOSECONDS\n"
                     "  --list          name the benchmarks and run none\n"
                     "  --filter REGEX  run only those whose name matches\n";

double min_time = SECONDS;

[[noreturn]] void complain(const char *program, const std::string &what) {
    std::fprintf(stderr, "%s: %s; try --help\n", program, what.c_str());
    std::exit(2);
}

// What Google Benchmark adds to a name, and nobody compares.
std::string short_name(const benchmark::BenchmarkReporter::Run &run) {
    std::string name = run.run_name.function_name;
    if (!run.run_name.threads.empty() && run.threads > 1)
        name += "/" + run.run_name.threads;
    return name;
}

class FileReporter : public benchmark::ConsoleReporter {
  public:
    explicit FileReporter(const std::string &path) : ConsoleReporter(OO_Tabular), path_(path) {
    }

    void ReportRuns(const std::vector<Run> &runs) override {
        ConsoleReporter::ReportRuns(runs);
        for (const Run &run : runs) {
            if (run.error_occurred || run.run_type != Run::RT_Iteration)
                continue;
            const std::string name = short_name(run);
            add("ns." + name, run.GetAdjustedRealTime());
            for (const auto &counter : run.counters)
                add(counter.first + "." + name, counter.second.value);
        }
    }

    bool write() const {
        if (path_.empty())
            return true;
        std::ofstream file(path_);
        file << lines_;
        file.close();
        return file.good();
    }

  private:
    void add(const std::string &key, double value) {
        char number[32];
        std::snprintf(number, sizeof(number), "%.6g", value);
        lines_ += key + "=" + number + "\n";
    }

    std::string path_, lines_;
};

struct Options {
    bool list = false;
    std::string report, filter;
};

double parse_scale(const char *program, const char *text) {
    char *end = nullptr;
    const double scale = std::strtod(text, &end);
    if (*text == '\0' || *end != '\0' || !(scale > 0 && scale <= 100))
        complain(program, std::string("--scale: '") + text + "' is not above 0 and at most 100");
    return scale;
}

Options parse(int argc, char **argv) {
    Options options;
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word == "--help") {
            std::printf(USAGE, argv[0]);
            std::exit(0);
        }
        if (word == "--list") {
            options.list = true;
            continue;
        }
        if (word != "--scale" && word != "--report" && word != "--filter")
            complain(argv[0], "unknown option '" + word + "'");
        if (i + 1 == argc)
            complain(argv[0], word + " needs a value");
        const char *value = argv[++i];
        if (word == "--scale")
            min_time = SECONDS * parse_scale(argv[0], value);
        else
            (word == "--report" ? options.report : options.filter) = value;
    }
    return options;
}

} // namespace

static benchmark::internal::Benchmark *add(const char *name, gbench_function *function,
                                           long argument) {
    const std::string full = std::string(name) + "/" + std::to_string(argument);
    return benchmark::RegisterBenchmark(full.c_str(),
                                        [function, argument](benchmark::State &state) {
                                            gbench bench{state};
                                            function(&bench, argument);
                                        })
        ->UseRealTime();
}

extern "C" {

void gbench_add_threads(const char *name, gbench_function *function, long argument, int threads) {
    add(name, function, argument)->MinTime(min_time)->Threads(threads);
}

void gbench_add(const char *name, gbench_function *function, long argument) {
    gbench_add_threads(name, function, argument, 1);
}

void gbench_add_fixed(const char *name, gbench_function *function, long argument, long operations) {
    add(name, function, argument)->Iterations(operations);
}

bool gbench_go(gbench *bench, long operations) {
    return bench->state.KeepRunningBatch(operations);
}

void gbench_pause(gbench *bench) {
    bench->state.PauseTiming();
}

void gbench_resume(gbench *bench) {
    bench->state.ResumeTiming();
}

void gbench_figure(gbench *bench, const char *kind, double total) {
    bench->state.counters[kind] = benchmark::Counter(total, benchmark::Counter::kAvgIterations);
}

void gbench_skip(gbench *bench, const char *why) {
    bench->state.SkipWithError(why);
}

void gbench_fail(const char *what) {
    std::fprintf(stderr, "%s failed\n", what);
    std::exit(1);
}

} // extern "C"

int main(int argc, char **argv) {
    const Options options = parse(argc, argv);
    char flag[] = "--benchmark_list_tests=true";
    char *words[] = {argv[0], options.list ? flag : nullptr, nullptr};
    int count = options.list ? 2 : 1;
    benchmark::Initialize(&count, words);
    gbench_setup();
    FileReporter reporter(options.report);
    benchmark::RunSpecifiedBenchmarks(&reporter, options.filter.empty() ? "." : options.filter);
    benchmark::Shutdown();
    if (!reporter.write()) {
        std::fprintf(stderr, "%s: cannot write %s\n", argv[0], options.report.c_str());
        return 1;
    }
    return 0;
}
