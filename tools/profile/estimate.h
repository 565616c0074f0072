/* SPDX-License-Identifier: MIT
 *
 * estimate.h: the arithmetic of sampling, without libm.
 *
 * Samples are the points of a Poisson process on the bytes that are asked for; a block is sampled if
 * there is a point in it. That happens to size bytes with the probability 1 - exp(-size / rate), so
 * a sampled block stands for the inverse of that many, whatever the program's sizes are.
 */
#ifndef PROFILE_ESTIMATE_H
#define PROFILE_ESTIMATE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes to the next point, exponentially distributed around rate, from 64 random bits; 0 where every
 * block is to be sampled (rate 1). */
uint64_t estimate_step(uint64_t rate, uint64_t random);

/* How many blocks a sampled one stands for. */
double estimate_blocks(uint64_t rate, size_t size);

#endif /* PROFILE_ESTIMATE_H */
