/* SPDX-License-Identifier: MIT
 *
 * test_malloc_info.c: malloc_info writes well-formed XML with the elements that its readers look for.
 */
#include "support.h"

#include <pthread.h>

#include "api_under_test.h"

/* ---- A checker for the XML that malloc_info may write ----------------------------------------------
 * Elements with attributes in double quotes, no text but white space, no declarations, no entities.
 * It flattens the document to one line per element, "malloc/heap/sizes/size from="1" to="16" ...",
 * which the tests then search.
 */
enum { DEPTH_MAX = 16, NAME_MAX_BYTES = 32 };

struct xml {
    const char *at;
    char names[DEPTH_MAX][NAME_MAX_BYTES]; /* of the elements that are open */
    size_t depth;
    size_t roots;
    char *flat; /* what has been found so far */
    size_t flat_length, flat_size;
};

static void add_text(struct xml *xml, const char *text, size_t length) {
    must(xml->flat_length + length < xml->flat_size);
    memcpy(xml->flat + xml->flat_length, text, length);
    xml->flat_length += length;
    xml->flat[xml->flat_length] = '\0';
}

static void skip_space(struct xml *xml) {
    xml->at += strspn(xml->at, " \t\n");
}

static size_t name_length(const char *text) {
    return strspn(text, "abcdefghijklmnopqrstuvwxyz_");
}

static void read_attributes(struct xml *xml) {
    for (;;) {
        size_t space = strspn(xml->at, " \t\n");
        if (xml->at[space] == '/' || xml->at[space] == '>') {
            xml->at += space;
            return;
        }
        must(space > 0);
        xml->at += space;
        const char *start = xml->at;
        size_t length = name_length(start);
        must(length > 0 && start[length] == '=' && start[length + 1] == '"');
        size_t value = strcspn(start + length + 2, "\"<&");
        must(start[length + 2 + value] == '"');
        xml->at = start + length + 2 + value + 1;
        add_text(xml, " ", 1);
        add_text(xml, start, (size_t)(xml->at - start));
    }
}

static void open_element(struct xml *xml) {
    size_t length = name_length(xml->at);
    must(length > 0 && length < NAME_MAX_BYTES && xml->depth < DEPTH_MAX);
    memcpy(xml->names[xml->depth], xml->at, length);
    xml->names[xml->depth][length] = '\0';
    xml->at += length;
    xml->roots += xml->depth == 0;
    xml->depth++;
    for (size_t i = 0; i < xml->depth; i++) {
        add_text(xml, i == 0 ? "" : "/", i == 0 ? 0 : 1);
        add_text(xml, xml->names[i], strlen(xml->names[i]));
    }
    read_attributes(xml);
    add_text(xml, "\n", 1);
    if (*xml->at == '/') {
        xml->at++;
        xml->depth--;
    }
    must(*xml->at++ == '>');
}

static void close_element(struct xml *xml) {
    must(xml->depth > 0);
    size_t length = name_length(xml->at);
    xml->depth--;
    must(length == strlen(xml->names[xml->depth]));
    must(memcmp(xml->at, xml->names[xml->depth], length) == 0);
    must(xml->at[length] == '>');
    xml->at += length + 1;
}

/* Returns the flattened document; it must be a whole one. */
static const char *flatten(const char *text) {
    static char flat[1 << 20];
    struct xml xml = {.at = text, .flat = flat, .flat_size = sizeof flat};
    flat[0] = '\0';
    for (skip_space(&xml); *xml.at != '\0'; skip_space(&xml)) {
        must(*xml.at++ == '<');
        if (*xml.at == '/') {
            xml.at++;
            close_element(&xml);
        } else {
            open_element(&xml);
        }
    }
    must(xml.depth == 0 && xml.roots == 1);
    return flat;
}

/* ---- What malloc_info writes ----------------------------------------------------------------------- */

static char *info_text(void) {
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size); /* allocates while malloc_info prints */
    must(stream != NULL);
    errno = 1234;
    must(t_malloc_info(0, stream) == 0);
    must(fclose(stream) == 0);
    must(text != NULL);
    return text;
}

/* The number in an attribute of the first element that starts so. */
static size_t number_in(const char *flat, const char *element, const char *attribute) {
    const char *line = strstr(flat, element);
    must(line != NULL);
    line += *line == '\n';
    const char *found = strstr(line, attribute);
    must(found != NULL && found < strchr(line, '\n'));
    found += strlen(attribute);
    must(*found >= '0' && *found <= '9');
    return strtoul(found, NULL, 10);
}

static void check_document(const char *flat) {
    static const char *const elements[] = {
        "malloc version=\"1\"\n",
        "\nmalloc/heap nr=\"0\"\n",
        "\nmalloc/heap/sizes\n",
        "\nmalloc/heap/total type=\"rest\" count=\"",
        "\nmalloc/heap/system type=\"current\" size=\"",
        "\nmalloc/heap/system type=\"max\" size=\"",
        "\nmalloc/heap/aspace type=\"total\" size=\"",
        "\nmalloc/heap/aspace type=\"mprotect\" size=\"",
        "\nmalloc/total type=\"rest\" count=\"",
        "\nmalloc/total type=\"mmap\" count=\"",
        "\nmalloc/system type=\"current\" size=\"",
        "\nmalloc/system type=\"max\" size=\"",
        "\nmalloc/aspace type=\"total\" size=\"",
        "\nmalloc/aspace type=\"mprotect\" size=\"",
    };
    const char *after = flat;
    for (size_t i = 0; i < COUNT_OF(elements); i++) {
        const char *found = strstr(flat, elements[i]);
        if (found == NULL || found < after) {
            fprintf(stderr, "# missing or out of order: %s\n%s", elements[i], flat);
            must(!"malloc_info writes all elements in order");
        }
        after = found;
    }
}

/* Each size element describes free chunks of one bin; their sum cannot exceed what is free. */
static void check_sizes(const char *flat) {
    size_t total = 0;
    const char *line = flat;
    while ((line = strstr(line, "\nmalloc/heap/sizes/size ")) != NULL) {
        size_t from = number_in(line, "\nmalloc/heap/sizes/size", " from=\"");
        size_t to = number_in(line, "\nmalloc/heap/sizes/size", " to=\"");
        size_t bytes = number_in(line, "\nmalloc/heap/sizes/size", " total=\"");
        size_t count = number_in(line, "\nmalloc/heap/sizes/size", " count=\"");
        must(count > 0 && from <= to && bytes >= count * from && bytes <= count * to);
        total += bytes;
        line++;
    }
    must(total <= number_in(flat, "\nmalloc/system type=\"current\"", "size=\""));
}

static void run_documents(void) {
    enum { BLOCKS = 3000 };
    static void *blocks[BLOCKS];
    char *empty = info_text();
    check_document(flatten(empty));
    check_sizes(flatten(empty));
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = t_malloc(1 + i * 13 % 9000);
    for (size_t i = 0; i < BLOCKS; i += 2)
        t_free(blocks[i]);
    char *holed = info_text();
    check_document(flatten(holed));
    check_sizes(flatten(holed));
    must(strstr(flatten(holed), "malloc/heap/sizes/size") != NULL);
    for (size_t i = 1; i < BLOCKS; i += 2)
        t_free(blocks[i]);
    free(empty);
    free(holed);
}

static void the_document_is_well_formed_and_complete(void **state) {
    (void)state;
    assert_child_succeeds(run_documents);
}

static void run_mappings(void) {
    void *first = t_malloc(40 * MIB);
    void *second = t_malloc(50 * MIB);
    struct mallinfo2 info = t_mallinfo2();
    char *text = info_text();
    const char *flat = flatten(text);
    must(number_in(flat, "\nmalloc/total type=\"mmap\"", "count=\"") == info.hblks);
    must(number_in(flat, "\nmalloc/total type=\"mmap\"", "size=\"") == info.hblkhd);
    must(info.hblks >= 2 && info.hblkhd >= 90 * MIB);
    t_free(first);
    t_free(second);
    free(text);
}

static void mappings_agree_with_mallinfo2(void **state) {
    (void)state;
    assert_child_succeeds(run_mappings);
}

static void other_options_are_refused(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    errno = 1234;
    assert_int_equal(t_malloc_info(1, stream), EINVAL);
    assert_int_equal(t_malloc_info(-1, stream), EINVAL);
    assert_int_equal(errno, 1234);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(size, 0);
    free(text);
}

/* Allocates on every write, as a stream that must grow its buffer does when Quarry is malloc. */
static ssize_t allocate_in_write(void *cookie, const char *buffer, size_t size) {
    static void *held[1000];
    size_t *writes = cookie;
    (void)buffer;
    size_t slot = (*writes)++ % COUNT_OF(held);
    t_free(held[slot]);
    held[slot] = t_malloc(1 + *writes * 997 % 300000);
    return held[slot] != NULL ? (ssize_t)size : -1;
}

static void run_allocating_stream(void) {
    size_t writes = 0;
    cookie_io_functions_t functions = {.write = allocate_in_write};
    for (int round = 0; round < 50; round++) {
        FILE *stream = fopencookie(&writes, "w", functions);
        must(stream != NULL);
        must(setvbuf(stream, NULL, _IONBF, 0) == 0);
        must(t_malloc_info(0, stream) == 0);
        must(fclose(stream) == 0);
    }
    must(writes >= 50);
}

static void the_stream_may_allocate(void **state) {
    (void)state;
    assert_child_succeeds(run_allocating_stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_document_is_well_formed_and_complete),
        cmocka_unit_test(mappings_agree_with_mallinfo2),
        cmocka_unit_test(other_options_are_refused),
        cmocka_unit_test(the_stream_may_allocate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
