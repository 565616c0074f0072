/* SPDX-License-Identifier: MIT
 *
 * control.h: QUARRY_CONTROL=1, a thread that does what is asked for from outside.
 */
#ifndef QUARRY_CONTROL_H
#define QUARRY_CONTROL_H

#include "base.h"
#include "sink.h"

/* Starts the thread.  Called once, by the library's constructor, where option_control says so. */
void control_start(void);

/* Does what one line of text asks for, and writes what came of it: JSON, but for statistics in other
 * formats.  The line is cut into words. */
void control_answer(char *request, struct sink *out);

#endif
