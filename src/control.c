/* SPDX-License-Identifier: MIT
 *
 * control: a thread that does what is asked for from outside, and gives an idle heap back.
 *
 * PURPOSE  Act on a process that runs: trim it, limit it, ask it, change its parameters (the verbs
 *          trim, limit, stats and set of the command quarry).  What the bound of purge.c tolerates
 *          goes back, too, where the program does nothing any more.  Only if QUARRY_CONTROL=1.
 *
 * REQUEST  A datagram to the abstract local socket "quarry-control-PID"; where another process has
 *          that name (of another pid namespace), a number is appended.  PID is the process as it sees
 *          itself.  One line of text:
 *            ping | trim [PAD] | limit BYTES|none|auto | stats [json|text|openmetrics]
 *            set NAME VALUE
 * ANSWER   Datagrams to the sender, the last of which is empty: a JSON object, with the member
 *          "error" where something was refused; or statistics in the format asked for.
 *
 * ACCESS   The kernel tells each sender's user: that of this process (effective), or root.  Who
 *          asks has to look at the answer's sender as well, for anybody may take an abstract name.
 *
 * IDLE     The thread looks at the heap once a second, and at most LOOK_MOST_NS apart while nothing
 *          changes: at counters, without a lock.  If they are what they were at STILL_LOOKS looks in
 *          a row, what lies free goes back, once, until something changes.  M_TRIM_THRESHOLD is obeyed:
 *          -1 gives nothing back; where it is set, what exceeds it for longer than a moment goes (purge.c), and
 *          holes go if there is more than that free in slabs.  M_TOP_PAD stays.
 *
 * THREAD   It has all signals blocked and a stack of its own; it calls no malloc and no stdio, and
 *          uses the heap's locks as any thread does.  Single-thread mode ends.  When the main
 *          thread and all others have ended by pthread_exit it ends, too, and with it the process.
 *
 * FORK     The child handler closes the inherited socket and starts the child's own thread; libc has
 *          reset the locks that pthread_create needs by then.  No handler runs before a fork, no
 *          lock is held.  Children of vfork and _Fork have no thread, exec closes the socket.
 *
 * FAILURE  Without a socket or a thread the process runs on uncontrolled; QUARRY_VERBOSE tells.
 *
 * COST     A look is four system calls, a reap what malloc_trim costs, and later the faults on what is
 *          wanted again.  Nothing for the program's threads, but for atomic instructions on their slow
 *          paths, and waiting where a request holds a lock.
 *
 * WHY NOT  Connections: each needs a descriptor, whose low number may be one that the program is
 *          about to rely on, and a client that says nothing would have to be waited for.  Datagrams
 *          come whole, with their sender's credentials.  A signal instead of a thread: handlers
 *          must not take locks.  A thread started when a request comes: who would notice it?
 */
#include "control.h"

#include "cache.h"
#include "figures.h"
#include "heap.h"
#include "limit.h"
#include "mapping.h"
#include "option.h"
#include "os.h"
#include "page.h"
#include "report.h"
#include "stats.h"

#include <string.h>

#define LOOK_NS ((uint64_t)1000 * 1000 * 1000)
#define LOOK_MOST_NS (4 * LOOK_NS)
#define CLOCK_GRAIN_NS ((uint64_t)10 * 1000 * 1000) /* of os_clock_ns, which may be coarse */
#define REAP_LEAST_BYTES ((size_t)128 << 10) /* less is not worth the faults that may follow */

enum { STILL_LOOKS = 2, REQUEST_BYTES = 256, WORDS_MOST = 3, NAMES_MOST = 16 };

static struct os_port port = {.descriptor = -1};

/* ---- requests ------------------------------------------------------------------------------------ */

static void refuse(struct sink *out, const char *verb, const char *word, const char *reason) {
    sink_print(out, "{\"error\": \"%s: '%s' %s\"}\n", verb, word, reason);
}

static void do_ping(struct sink *out, char *const *word) {
    (void)word;
    sink_print(out, "{\"pid\": %zu, \"version\": \"%s\"}\n", (size_t)os_process(),
               quarry_version());
}

static void do_trim(struct sink *out, char *const *word) {
    struct quarry_trim_report report;
    size_t pad = 0;
    if (word[1] && !option_parse_bytes(word[1], &pad)) {
        refuse(out, "trim", word[1], "is no number of bytes; write 65536, or 64K");
        return;
    }
    quarry_trim(pad, &report, sizeof report);
    sink_print(out,
               "{\"released_bytes\": %zu, \"cached_elsewhere_bytes\": %zu, "
               "\"free_beside_live_bytes\": %zu, \"refused_bytes\": %zu}\n",
               report.released_bytes, report.cached_elsewhere_bytes, report.free_beside_live_bytes,
               report.refused_bytes);
}

static void do_limit(struct sink *out, char *const *word) {
    long value;
    if (strcmp(word[1], "none") == 0) {
        limit_set(LIMIT_NONE);
        option_forget(option_named("limit"));
    } else if (!option_set_text(option_named("limit"), word[1], &value)) {
        refuse(out, "limit", word[1], "is no limit; give bytes (64M), auto, or none");
        return;
    }
    sink_print(out, "{\"limit_bytes\": %zu, \"held_bytes\": %zu, \"dirty_bytes\": %zu}\n",
               limit_get() == LIMIT_NONE ? 0 : limit_get(), limit_held_bytes(), page_dirty_bytes());
}

static void do_stats(struct sink *out, char *const *word) {
    static const char formats[][12] = {
        [QUARRY_TEXT] = "text", [QUARRY_JSON] = "json", [QUARRY_OPENMETRICS] = "openmetrics"};
    const char *wanted = word[1] ? word[1] : "json";
    int format = QUARRY_TEXT;
    while (format <= QUARRY_OPENMETRICS && strcmp(formats[format], wanted) != 0)
        format++;
    if (!figures_write((enum quarry_format)format, out))
        refuse(out, "stats", wanted, "is no format; one of: json, text, openmetrics");
}

static void refuse_name(struct sink *out, const char *name) {
    const char *before = ": ";
    sink_print(out, "{\"error\": \"set: '%s' is no option; one of", name);
    for (unsigned i = 0; i < option_count; i++) {
        if (option_table[i].flags & OPTION_AT_START)
            continue;
        sink_print(out, "%s%s", before, option_table[i].name);
        before = ", ";
    }
    sink_print(out, "\"}\n");
}

static void do_set(struct sink *out, char *const *word) {
    const struct option *option = option_named(word[1]);
    long value;
    if (!option) {
        refuse_name(out, word[1]);
    } else if (option->flags & OPTION_AT_START) {
        refuse(out, "set", word[1],
               "is read when the program starts; set its variable before that");
    } else if (!option_set_text(option, word[2], &value)) {
        struct line range = {.length = 0};
        option_range(option, &range);
        range.text[min_size(range.length, sizeof range.text - 1)] = 0;
        sink_print(out, "{\"error\": \"set %s: '%s' is not one of: %s\"}\n", option->name, word[2],
                   range.text);
    } else {
        sink_print(out, "{\"name\": \"%s\", \"value\": %s%zu}\n", option->name,
                   value < 0 ? "-" : "", value < 0 ? 0 - (size_t)value : (size_t)value);
    }
}

static const struct command {
    char name[8], usage[32];
    size_t least, most; /* words, the name included */
    void (*run)(struct sink *out, char *const *word);
} commands[] = {
    {"ping", "", 1, 1, do_ping},
    {"trim", " [PAD]", 1, 2, do_trim},
    {"limit", " BYTES|none|auto", 2, 2, do_limit},
    {"stats", " [json|text|openmetrics]", 1, 2, do_stats},
    {"set", " NAME VALUE", 3, 3, do_set},
};

/* Cuts a line into words, of which the last is followed by NULL; returns how many there are, also
 * beyond those that have room.  What a JSON string cannot have as it is becomes "?". */
static size_t cut(char *line, char *word[WORDS_MOST + 1]) {
    size_t count = 0;
    bool inside = false;
    for (char *at = line; *at; at++) {
        bool blank = *at == ' ' || (*at >= '\t' && *at <= '\r');
        if (!blank && !inside && count++ < WORDS_MOST)
            word[count - 1] = at;
        inside = !blank;
        if (blank)
            *at = 0;
        else if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
            *at = '?';
    }
    word[min_size(count, WORDS_MOST)] = NULL;
    return count;
}

void control_answer(char *request, struct sink *out) {
    char *word[WORDS_MOST + 1];
    size_t count = cut(request, word);
    for (size_t i = 0; count > 0 && i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *command = &commands[i];
        if (strcmp(command->name, word[0]) != 0)
            continue;
        if (count >= command->least && count <= command->most)
            command->run(out, word);
        else
            sink_print(out, "{\"error\": \"usage: %s%s\"}\n", command->name, command->usage);
        return;
    }
    refuse(out, "request", count ? word[0] : "", "is none; one of: ping, trim, limit, stats, set");
}

static void send_part(void *target, const char *text, size_t bytes) {
    struct os_peer *peer = target;
    if (peer->address_bytes && !os_send(&port, peer, text, bytes))
        peer->address_bytes = 0; /* gone, or stuck: the rest is not worth a second each */
}

static void serve(struct os_peer *peer, char request[REQUEST_BYTES], size_t length) {
    struct sink out = {.write = send_part, .target = peer};
    if (!peer->address_bytes)
        return; /* nobody to answer */
    request[length] = 0;
    if (!peer->trusted)
        sink_print(&out,
                   "{\"error\": \"user %zu may not control this process: be its user, or root\"}\n",
                   (size_t)peer->user);
    else if (length == REQUEST_BYTES - 1)
        refuse(&out, "request", "...", "is longer than any request");
    else
        control_answer(request, &out);
    sink_end(&out);
    send_part(peer, "", 0);
}

/* ---- an idle heap -------------------------------------------------------------------------------- */

struct watch {
    uint64_t next_ns, interval_ns;
    size_t seen; /* what the heap looked like */
    unsigned still;
};

/* A number that changes where anything does that matters here. */
static size_t heap_state(void) {
    size_t state = page_live_bytes() + 3 * page_free_bytes() + 5 * page_dirty_bytes() +
                   7 * mapping_live_bytes();
    for (const struct cache *cache = LOAD_ACQUIRE(cache_registry); cache; cache = cache->next)
        state += LOAD_RELAXED(cache->ticks);
    return state;
}

static bool is_set(const char *name, size_t *value) {
    long number = 0;
    bool set = option_is_set((unsigned)(option_named(name) - option_table), &number);
    *value = (size_t)number;
    return set;
}

static void reap(void) {
    struct stats stats;
    size_t threshold, pad;
    bool bounded = is_set("trim_threshold", &threshold);
    if (bounded && threshold == SIZE_MAX)
        return;
    stats_read(&stats);
    if (bounded && stats.free_object_bytes > threshold)
        slab_trim();
    if (bounded)
        page_settle();
    if (bounded || stats.free_object_bytes + stats.page.dirty_bytes < REAP_LEAST_BYTES)
        return;
    heap_trim(is_set("top_pad", &pad) ? pad : 0);
}

/* Whether the main thread has ended, and no other is left but this one. */
static bool is_last_thread(void) {
    char text[512];
    if (!os_main_may_have_ended())
        return false;
    size_t length = os_read_file("/proc/self/stat", text, sizeof text - 1);
    text[length] = 0;
    const char *at = strrchr(text, ')');
    if (!at || strncmp(at, ") Z ", 4) != 0)
        return false;
    for (int field = 2; *at && field < 20; at++) /* the name is the second, the threads the 20th */
        field += *at == ' ';
    return strncmp(at, "2 ", 2) == 0;
}

static bool open_port(void) {
    for (unsigned i = 0; i < NAMES_MOST; i++) {
        struct line name = {.length = 0};
        line_text(&name, "quarry-control-");
        line_number(&name, os_process());
        if (i > 0) {
            line_text(&name, "-");
            line_number(&name, i);
        }
        name.text[name.length] = 0;
        if (os_port_open(&port, name.text))
            return true;
    }
    return false;
}

/* False where the thread is not needed any more. */
static bool look(struct watch *watch) {
    if (is_last_thread())
        return false;
    if (!os_port_is_open(&port))
        open_port();
    size_t state = heap_state();
    watch->still = state == watch->seen ? watch->still + 1 : 0;
    if (watch->still == STILL_LOOKS) {
        reap();
        state = heap_state();
    }
    watch->seen = state;
    watch->interval_ns = watch->still > STILL_LOOKS
                             ? (uint64_t)min_size(2 * watch->interval_ns, LOOK_MOST_NS)
                             : LOOK_NS;
    return true;
}

/* ---- the thread ---------------------------------------------------------------------------------- */

static uint64_t time_left(const struct watch *watch) {
    uint64_t now = os_clock_ns();
    return now < watch->next_ns ? watch->next_ns - now : 0;
}

static void *run(void *unused) {
    char request[REQUEST_BYTES];
    struct os_peer peer = {.trusted = false};
    size_t length;
    struct watch watch = {.next_ns = os_clock_ns() + LOOK_NS};
    heap_enter();
    os_name_thread("quarry-control");
    for (;;) {
        enum os_received got =
            os_receive(&port, time_left(&watch), &peer, request, sizeof request - 1, &length);
        if (got == OS_REQUEST)
            serve(&peer, request, length);
        else if (got == OS_LOST)
            port.descriptor = -1;
        if (time_left(&watch) > CLOCK_GRAIN_NS)
            continue;
        if (!look(&watch))
            return unused;
        watch.next_ns = os_clock_ns() + watch.interval_ns;
    }
}

static bool begin(void) {
    if (!open_port())
        return false;
    bool started = os_start_thread(run);
    if (!started)
        os_port_close(&port);
    return started;
}

/* The thread that forked repairs the heap, before there is another one: what it holds stays its own. */
static void begin_in_child(void) {
    heap_enter();
    os_port_close(&port);
    begin();
}

void control_start(void) {
    static const char failed[] =
        "quarry: QUARRY_CONTROL: no local socket or no thread can be had here; the process runs "
        "without\n";
    if (begin())
        os_at_fork(begin_in_child);
    else if (option_verbose())
        os_write_error(failed, sizeof failed - 1);
}
