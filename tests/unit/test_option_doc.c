/* SPDX-License-Identifier: MIT
 *
 * docs/OPTIONS.md says what the option table says: each row of the table is a line of the page, and
 * the page has no other rows.
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

static FILE *open_page(void) {
    const char *root = getenv("QUARRY_ROOT");
    char path[4096];
    snprintf(path, sizeof path, "%s/docs/OPTIONS.md", root ? root : ".");
    FILE *page = fopen(path, "r");
    assert_non_null(page);
    return page;
}

static bool page_has(const char *row) {
    char line[1024];
    bool found = false;
    FILE *page = open_page();
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
    FILE *page = open_page();
    while (fgets(line, sizeof line, page))
        rows += line[0] == '|';
    fclose(page);
    assert_int_equal(rows, option_count + 2); /* and the heading's two lines */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_option_is_documented_as_it_is),
        cmocka_unit_test(no_other_option_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
