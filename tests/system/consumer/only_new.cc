/* SPDX-License-Identifier: MIT
 *
 * A C++ program that refers to nothing of the library: only libstdc++ calls malloc for it.  The
 * references are weak, so that they do not pull the library in.
 */
#include <cstdio>
#include <quarry.h>

#pragma weak quarry_version
#pragma weak quarry_malloc_usable_size

int main() {
    int *numbers = new int[1000];
    if (!quarry_version || quarry_malloc_usable_size(numbers) < 1000 * sizeof *numbers)
        return 1;
    delete[] numbers;
    std::puts(quarry_version());
    return 0;
}
