/* SPDX-License-Identifier: MIT
 *
 * classes: what one gets who asks for so much.
 *
 * usage: classes          a table of a few sizes
 *        classes all      "asked got" for sizes from 16 bytes to 64 KiB, for a plot
 */
#include "step.h"

#include <malloc.h>

static const size_t examples[] = {1, 17, 100, 1000, 1025, 4097, 16384, 16385, 65537};

static size_t got(size_t bytes) {
    void *block = must(malloc(bytes));
    size_t usable = malloc_usable_size(block);
    free(block);
    return usable;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        for (size_t bytes = 16; bytes <= 65536; bytes += bytes < 256 ? 1 : bytes / 256)
            say("%zu %zu", bytes, got(bytes));
        return 0;
    }
    say("asked for    got   unused");
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        size_t usable = got(examples[i]), unused = usable - examples[i];
        say("%9zu %6zu %5.1f %%", examples[i], usable, 100.0 * (double)unused / (double)usable);
    }
    return 0;
}
