/* SPDX-License-Identifier: MIT
 *
 * estimate.c: see estimate.h.
 */
#include "estimate.h"

#define LN_2 0.693147180559945309
#define HALVINGS 10
/* exp(-40) is nothing beside 1. */
#define NEGLIGIBLE 40.0

/* -ln(u) for u = (n + 1) / 2^53, n being the upper 53 bits. */
static double negative_log(uint64_t random) {
    uint64_t numerator = (random >> 11) + 1;
    int exponent = 63 - __builtin_clzll(numerator);
    double mantissa = (double)numerator / (double)(1ull << exponent);
    /* ln m = 2 artanh((m - 1) / (m + 1)); below 2 the argument is below 1/3. */
    double argument = (mantissa - 1) / (mantissa + 1);
    double power = argument;
    double sum = 0;
    for (int i = 1; i <= 21; i += 2) {
        sum += power / i;
        power *= argument * argument;
    }
    return (53 - exponent) * LN_2 - 2 * sum;
}

uint64_t estimate_step(uint64_t rate, uint64_t random) {
    if (rate <= 1) {
        return 0;
    }
    return (uint64_t)(negative_log(random) * (double)rate) + 1;
}

double estimate_blocks(uint64_t rate, size_t size) {
    double ratio = (double)size / (double)rate;
    if (rate <= 1 || size == 0 || ratio > NEGLIGIBLE) {
        return 1;
    }
    /* exp(-x) - 1 without cancellation: by its series for x / 2^10, then doubled. */
    double x = -ratio / (1 << HALVINGS);
    double less_one = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5))));
    for (int i = 0; i < HALVINGS; i++) {
        less_one *= less_one + 2;
    }
    return -1 / less_one;
}
