#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The library's figures: they add up, agree with the kernel, and say the same in every format."""
import json
import os
import re
import sys
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "figures")
KIB, MIB = 1024, 1024 * 1024
CACHES = ("object_cache_count", "object_caches")  # about them: test_objects.py
STATES = ("small", "holes", "large", "mapped", "untouched", "threads")


def figures(state, form, **variables):
    result = tap.run(PROGRAM, state, form, preload=tap.LIBRARY, **variables)
    if result.returncode != 0:
        tap.check(f"figures {state} {form} runs", False, result.stdout + result.stderr)
    return result


def heap_of_kernel(smaps):
    """What the kernel charges for the break and for anonymous memory that has no name."""
    total = 0
    for area in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", "\n" + smaps):
        words = area.strip().split("\n")[0].split()
        if len(words) == 5 or words[5:] == ["[heap]"]:
            total += int(re.search(r"^Rss: +(\d+) kB", area, re.MULTILINE).group(1)) * KIB
    return total


def brief(document):
    return "\n".join(f"{name}: {value}" for name, value in document.items() if name not in ("classes", *CACHES))


def check_ledger(state):
    text = figures(state, "ledger").stdout
    document, end = json.JSONDecoder().raw_decode(text)
    kernel, ledger = heap_of_kernel(text[end:]), document["resident_bytes"]
    print(f"# {state}: the kernel says {kernel}, the ledger {ledger}, off by {kernel - ledger}")
    tap.check(f"the ledger adds up to the kernel's figure ({state})",
              abs(kernel - ledger) <= max(kernel // 100, 256 * KIB), brief(document))
    parts = sum(document[f"resident_{part}_bytes"]
                for part in ("live", "cached", "free", "dirty", "metadata"))
    tap.equal(f"the ledger is the sum of its parts ({state})", parts, ledger)
    parts = sum(document[part + "_bytes"]
                for part in ("live", "cached", "free_object", "dirty", "clean"))
    tap.equal(f"the heap is the sum of its parts ({state})", parts, document["heap_bytes"])
    return document


def check_states():
    known = {state: check_ledger(state) for state in STATES}
    small, holes = known["small"], known["holes"]
    tap.check("small blocks are live", 30 * MIB < small["resident_live_bytes"] < 40 * MIB, brief(small))
    tap.check("holes are free or gone, and no longer live",
              holes["resident_live_bytes"] < 0.4 * small["resident_live_bytes"] and
              holes["free_object_bytes"] > 20 * MIB, brief(holes))
    tap.check("free runs are dirty", known["large"]["dirty_bytes"] > MIB and
              known["large"]["resident_dirty_bytes"] > MIB, brief(known["large"]))
    tap.check("mappings are counted", known["mapped"]["mapped_blocks"] == 101 and
              known["mapped"]["resident_live_bytes"] > 28 * MIB, brief(known["mapped"]))
    tap.check("what was not touched is not resident",
              known["untouched"]["untouched_bytes"] > 90 * MIB and
              known["untouched"]["resident_bytes"] < 8 * MIB, brief(known["untouched"]))
    tap.check("a thread's cache is counted", known["threads"]["cached_bytes"] > 8 * KIB and
              known["threads"]["resident_cached_bytes"] > 8 * KIB, brief(known["threads"]))
    classes = small["classes"]
    held = sum(entry["size"] * entry["taken_objects"] for entry in classes)
    tap.check("the classes hold what the heap holds",
              abs(held - small["live_bytes"] - small["cached_bytes"]) < small["heap_bytes"] // 10,
              f"{held} in classes\n{brief(small)}")


def check_formats():
    document = json.loads(figures("small", "json").stdout)
    names = [name for name in document if name not in ("version", "classes", *CACHES)]
    text = figures("small", "text").stdout
    tap.equal("the text has the same figures", re.findall(r"^(\w+) +\d+  \w", text, re.MULTILINE),
              names)
    metrics = figures("small", "openmetrics").stdout
    found = re.findall(r"^# TYPE quarry_(\w+) (?:gauge|counter)\n(?:# UNIT quarry_\1 bytes\n)?"
                       r"# HELP quarry_\1 [^\n]+\nquarry_\1(?:_total)? \d+$", metrics, re.MULTILINE)
    tap.equal("OpenMetrics has the same figures", found, names + ["object_caches"])
    tap.check("OpenMetrics ends as it must", metrics.endswith("\n# EOF\n"), metrics[-100:])
    family = re.findall(r'^quarry_class_free_objects\{size="(\d+)"\} \d+$', metrics, re.MULTILINE)
    tap.equal("OpenMetrics has each class", [int(size) for size in family],
              [entry["size"] for entry in document["classes"]])
    printed = figures("small", "stats").stderr
    tap.check("malloc_stats begins with glibc's lines", re.match(
        r"Arena 0:\nsystem bytes     = +\d+\nin use bytes     = +\d+\nTotal \(incl\. mmap\):\n"
        r"system bytes     = +\d+\nin use bytes     = +\d+\nmax mmap regions = +\d+\n"
        r"max mmap bytes   = +\d+\nQuarry:\n", printed), printed)
    tap.equal("and goes on with Quarry's", re.findall(r"^(\w+) = +\d+$", printed, re.MULTILINE),
              names)
    root = xml.fromstring(figures("small", "info", MALLOC_TOP_PAD_="0x10000",
                                  GLIBC_TUNABLES="glibc.malloc.mmap_max=12").stdout)
    tap.equal("malloc_info has the same figures",
              [entry.get("name") for entry in root.findall("quarry/figure")], names)
    tap.equal("malloc_info has what the user set",
              {entry.get("name"): entry.get("value") for entry in root.findall("quarry/option")},
              {"top_pad": "65536", "mmap_max": "12"})
    with open(os.path.join(tap.ROOT, "docs", "STATS.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| `(\w+)` \|", file.read(), re.MULTILINE)
    columns = [name for name in document["classes"][0] if name != "size"]
    tap.equal("docs/STATS.md defines each of them", rows, names + ["size"] + columns)


check_states()
check_formats()
tap.done()
