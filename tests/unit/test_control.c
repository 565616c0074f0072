/* SPDX-License-Identifier: MIT
 *
 * test_control.c: what the control thread answers, without the thread and its socket.
 */
#include "unit_support.h"

#include "api.h"
#include "control.h"
#include "limit.h"
#include "option.h"
#include "page_internal.h"

#include <string.h>

struct answer {
    size_t length, parts;
    char text[1 << 17];
};

static void keep(void *target, const char *text, size_t bytes) {
    struct answer *answer = target;
    must(bytes > 0 && answer->length + bytes < sizeof answer->text);
    memcpy(answer->text + answer->length, text, bytes);
    answer->length += bytes;
    answer->text[answer->length] = 0;
    answer->parts++;
}

/* The whole answer to a request. */
static const char *ask(const char *request) {
    static struct answer answer;
    char line[256];
    struct sink out = {.write = keep, .target = &answer};
    answer.length = answer.parts = 0;
    answer.text[0] = 0;
    snprintf(line, sizeof line, "%s", request);
    control_answer(line, &out);
    sink_end(&out);
    return answer.text;
}

static bool answers(const char *request, const char *wanted) {
    const char *got = ask(request);
    if (strcmp(got, wanted) != 0)
        fprintf(stderr, "# %s: %s", request, got);
    return strcmp(got, wanted) == 0;
}

/* Refused, with these words in the reason. */
static bool refuses(const char *request, const char *words) {
    const char *got = ask(request);
    bool refused = strncmp(got, "{\"error\": \"", 11) == 0 && strstr(got, words) &&
                   strcmp(got + strlen(got) - 3, "\"}\n") == 0;
    if (!refused)
        fprintf(stderr, "# %s: %s", request, got);
    return refused;
}

static void requests_are_done(void) {
    must(answers("ping", "{\"pid\": 1, \"version\": \"0.1.0\"}\n"));
    must(answers("  ping \r\n", "{\"pid\": 1, \"version\": \"0.1.0\"}\n"));
    must(strstr(ask("limit 5M\n"), "{\"limit_bytes\": 5242880, ") && limit_get() == 5 * MIB);
    must(strstr(ask("limit none"), "{\"limit_bytes\": 0, ") && limit_get() == LIMIT_NONE);
    must(answers("set trim_threshold -1\n", "{\"name\": \"trim_threshold\", \"value\": -1}\n"));
    must(page_trim_bound() > GIB);
    must(answers("set top_pad 0x1000", "{\"name\": \"top_pad\", \"value\": 4096}\n"));
    must(page_state.top_pad_bytes == 4096);
    must(answers("set limit auto", "{\"name\": \"limit\", \"value\": 0}\n"));
}

static void a_trim_gives_back_and_tells(void) {
    char *block = api_malloc(10 * MIB), *low = api_malloc(MIB / 16);
    must(block && low);
    memset(low, 1, MIB / 16);
    api_free(low);
    must(page_dirty_bytes() >= MIB / 16);
    size_t held = 0, dirty = 0;
    must(sscanf(ask("limit none"),
                "{\"limit_bytes\": 0, \"held_bytes\": %zu, \"dirty_bytes\": %zu}", &held,
                &dirty) == 2);
    must(held == limit_held_bytes() && dirty == page_dirty_bytes());
    const char *answer = ask("trim");
    size_t released = 0;
    must(sscanf(answer, "{\"released_bytes\": %zu,", &released) == 1 && released >= MIB / 16);
    must(strstr(answer, "\"cached_elsewhere_bytes\": 0, \"free_beside_live_bytes\": "));
    must(page_dirty_bytes() == 0);
    api_free(block);
}

static void statistics_come_in_each_format(void) {
    must(strncmp(ask("stats"), "{\n  \"version\": 1,", 17) == 0);
    must(strstr(ask("stats json"), "\"object_caches\": [\n  ]\n}\n"));
    must(strncmp(ask("stats text"), "heap_bytes ", 11) == 0);
    const char *metrics = ask("stats openmetrics");
    must(strcmp(metrics + strlen(metrics) - 6, "# EOF\n") == 0);
    must(strlen(metrics) > 2 * SINK_BYTES);
}

static void what_is_wrong_is_refused(void) {
    must(refuses("", "'' is none; one of: ping, trim, limit, stats, set"));
    must(refuses("\n", "'' is none"));
    must(refuses("pings", "'pings' is none"));
    must(refuses("ping 1", "usage: ping"));
    must(refuses("trim 1 2", "usage: trim [PAD]"));
    must(refuses("trim -1", "'-1' is no number of bytes"));
    must(refuses("trim 1x", "'1x' is no number of bytes"));
    must(refuses("limit", "usage: limit BYTES|none|auto"));
    must(refuses("limit 0", "'0' is no limit"));
    must(refuses("limit -1", "'-1' is no limit") && limit_get() == LIMIT_NONE);
    must(refuses("stats xml", "'xml' is no format"));
    must(refuses("set top_pad", "usage: set NAME VALUE"));
    must(refuses("set a 1", "'a' is no option; one of: trim_threshold, top_pad, "));
    must(refuses("set control 0", "when the program starts"));
    must(refuses("set mxfast 161", "'161' is not one of: 0 .. 160"));
    must(refuses("set mmap_max 1K", "'1K' is not one of: 0 or more")); /* no bytes */
    must(refuses("set foreign leaks", "'leaks' is not one of: abort, leak, libc"));
    must(refuses("set foreign \"}\x80x", "'?}?x' is not one of"));
}

static void every_option_can_be_set(void) {
    char request[100];
    for (unsigned i = 0; i < option_count; i++) {
        snprintf(request, sizeof request, "set %s 1", option_table[i].name);
        bool refused = strstr(ask(request), "error") != NULL;
        must(refused == ((option_table[i].flags & OPTION_AT_START) != 0));
    }
}

/* There is no socket here: the program goes on without. */
static void without_a_socket_nothing_happens(void) {
    fake_os.environment[0] = "QUARRY_CONTROL=1";
    option_init();
    control_start();
    must_be_sound();
}

static void which_is_told(void **state) {
    (void)state;
    fake_os.environment[1] = "QUARRY_VERBOSE=1";
    struct outcome outcome = run_and_catch(without_a_socket_nothing_happens);
    fake_os.environment[1] = NULL;
    assert_int_equal(outcome.status, 0);
    assert_non_null(strstr(outcome.text, "quarry: QUARRY_CONTROL: no local socket"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(requests_are_done),
        body_test(a_trim_gives_back_and_tells),
        body_test(statistics_come_in_each_format),
        body_test(what_is_wrong_is_refused),
        body_test(every_option_can_be_set),
        body_test(without_a_socket_nothing_happens),
        cmocka_unit_test(which_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
