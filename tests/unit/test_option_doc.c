/* SPDX-License-Identifier: MIT
 *
 * docs/OPTIONS.md says what the option table says: each row of the table is a line of the page, and
 * the page has no other rows.  The manual page quarry(7) names each variable and tunable.
 */
#include "unit_support.h"

#include "option.h"
#include "report.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *or_dash(const char *text) {
    return text ? text : "-";
}

static void format_row(const struct option *option, char *row, size_t bytes) {
    char number[16] = "-", tunable[64] = "-";
    struct line range = {0};
    option_range(option, &range);
    if (option->number)
        snprintf(number, sizeof number, "%d", option->number);
    if (option->tunable)
        snprintf(tunable, sizeof tunable, "glibc.malloc.%s", option->tunable);
    snprintf(row, bytes, "| %s | %s | %s | %s | %s | %s |\n", option->name,
             or_dash(option->environment), tunable, number, range.text, option->help);
}

static FILE *open_page(const char *name) {
    const char *root = getenv("QUARRY_ROOT");
    char path[4096];
    snprintf(path, sizeof path, "%s/docs/%s", root ? root : ".", name);
    FILE *page = fopen(path, "r");
    assert_non_null(page);
    return page;
}

static bool page_has(const char *row) {
    char line[1024];
    bool found = false;
    FILE *page = open_page("OPTIONS.md");
    while (fgets(line, sizeof line, page))
        found = found || strcmp(line, row) == 0;
    fclose(page);
    return found;
}

static void each_option_is_documented_as_it_is(void **state) {
    (void)state;
    for (unsigned i = 0; i < option_count; i++) {
        char row[1024];
        format_row(&option_table[i], row, sizeof row);
        if (!page_has(row))
            fail_msg("docs/OPTIONS.md lacks this line:\n%s", row);
    }
}

static void no_other_option_is_documented(void **state) {
    (void)state;
    char line[1024];
    unsigned rows = 0;
    FILE *page = open_page("OPTIONS.md");
    while (fgets(line, sizeof line, page))
        rows += line[0] == '|';
    fclose(page);
    assert_int_equal(rows, option_count + 2); /* and the heading's two lines */
}

static const char *after(const char *text, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : text;
}

/* Whether a line of the manual page is one of a macro's, with the name as its first word. */
static bool manual_has(const char *macro, const char *name) {
    char line[1024];
    bool found = false;
    FILE *page = open_page("man/quarry.7");
    while (fgets(line, sizeof line, page)) {
        const char *word = after(line, macro);
        if (word == line)
            continue;
        word = after(word, "glibc.malloc.");
        const char *end = after(word, name);
        found = found || (end != word && (*end == ' ' || *end == '\n'));
    }
    fclose(page);
    return found;
}

static void the_manual_page_names_each_option(void **state) {
    (void)state;
    for (unsigned i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (option->environment && !manual_has(".It Ev ", option->environment))
            fail_msg("docs/man/quarry.7 has no item for %s", option->environment);
        if (option->tunable && !manual_has(".Li ", option->tunable))
            fail_msg("docs/man/quarry.7 lacks the tunable %s", option->tunable);
    }
}

static void the_manual_page_names_no_other_variable(void **state) {
    (void)state;
    char line[1024];
    unsigned items = 0, variables = 2; /* GLIBC_TUNABLES, QUARRY_VERBOSE */
    for (unsigned i = 0; i < option_count; i++)
        variables += option_table[i].environment != NULL;
    FILE *page = open_page("man/quarry.7");
    while (fgets(line, sizeof line, page))
        items += after(line, ".It Ev ") != line;
    fclose(page);
    assert_int_equal(items, variables);
}

/* Others would be seen only where one of these is set as well: see read_variables. */
static void all_variables_begin_with_one_of_two_names(void **state) {
    (void)state;
    for (unsigned i = 0; i < option_count; i++) {
        const char *variable = option_table[i].environment;
        if (variable)
            assert_true(strncmp(variable, "MALLOC_", 7) == 0 ||
                        strncmp(variable, "QUARRY_", 7) == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_option_is_documented_as_it_is),
        cmocka_unit_test(no_other_option_is_documented),
        cmocka_unit_test(the_manual_page_names_each_option),
        cmocka_unit_test(the_manual_page_names_no_other_variable),
        cmocka_unit_test(all_variables_begin_with_one_of_two_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
