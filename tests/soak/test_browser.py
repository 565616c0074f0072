#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=1800
"""Plots in a browser: nothing is loaded, nothing goes wrong, all labels are there, none is clipped."""
import glob
import json
import os
import re
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import chromium
import soak_support
import tap
from quarry_tool import PROGRAM, tool

try:
    import matplotlib  # pylint: disable=unused-import
except ModuleNotFoundError:
    if sys.executable == "/usr/bin/python3":
        sys.exit("test_browser.py: install python3-matplotlib")
    os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])

COLOURS_AT_LEAST, DRAWN_AT_LEAST = 20, 0.01


def check_page(browser, name, text, says, width=1100, height=1000):
    """The tests of one page at one size."""
    seen = chromium.open_page(browser, text, width, height)
    where = ""
    if not tap.check(f"{name}: opens", seen["status"] == 0 and "texts" in seen, seen["stderr"][-3000:]):
        return
    tap.check(f"{name}: nothing on the console", not seen["console"], "\n".join(seen["console"]))
    tap.equal(f"{name}: nothing is loaded", seen["loaded"], [])
    said = re.sub(r"\s+", " ", seen["text"])
    missing = [word for word in says if word not in said]
    tap.check(f"{name}: its labels and figures are there", not missing and seen["pictures"] >= 1,
              f"missing: {missing}\n{said[:3000]}")
    count, drawn = chromium.colours(seen["png"])
    good = tap.check(f"{name}: it is not blank",
                     count >= COLOURS_AT_LEAST and drawn >= DRAWN_AT_LEAST,
                     f"{count} colours, {100 * drawn:.2f} % drawn")
    good &= tap.check(f"{name}: no text is clipped", seen["texts"] > 0 and not seen["clipped"],
                      f"{seen['texts']} texts, clipped: {seen['clipped']}")
    if not good:
        where = soak_support.keep(re.sub(r"\W+", "-", name) + ".png", seen["png"])
        print(f"# as it looked: {where}")


def check_planted(browser):
    """What these tests look for is found where it is planted."""
    bad = ("<!DOCTYPE html><html><head></head><body><img src=\"http://127.0.0.1:9/x.png\">"
           "<script>console.error(\"planted\"); undefined_name()</script>"
           "<svg width=\"300\" height=\"200\"><text x=\"280\" y=\"50\">much too long</text></svg>"
           "</body></html>")
    seen = chromium.open_page(browser, bad)
    said = "\n".join(seen["console"])
    tap.check("an error on the console would be seen", "planted" in said
              and "undefined_name" in said, seen["stderr"][-2000:])
    tap.check("what is loaded would be seen", "x.png" in said or seen.get("loaded"), said)
    tap.equal("a clipped text would be seen", seen.get("clipped"), ["much too long"])
    blank = chromium.open_page(browser, "<!DOCTYPE html><html><head></head><body></body></html>")
    count, drawn = chromium.colours(blank["png"])
    tap.check("a blank page would be seen", blank["png"] and (
        count < COLOURS_AT_LEAST or drawn < DRAWN_AT_LEAST), f"{count} {drawn}")


def check_recordings(browser, folder):
    """quarry plot: of a real recording, of one without a heap, and of one that is very long."""
    name = os.path.join(folder, "steps")
    tool("record", "-o", name, "-i", "0.02", "--", PROGRAM, "steps")
    summary = json.loads(tool("plot", name, "--json").stdout)["summary"]
    labels = ["virtual (VSS)", "resident (RSS)", "live", "dirty", "page faults", "given back",
              "quarry_known: memory over time", "seconds"]
    figures = [f"peak live {size(summary['peak_live'])}", f"peak rss {size(summary['peak_rss'])}"]
    for width in (1100, 480):
        check_page(browser, f"plot.html, {width} wide", plotted(name, "html"), labels + figures, width)
    check_page(browser, "plot.svg", plotted(name, "svg"), labels)
    plain = os.path.join(folder, "plain")
    with open(plain, "w", encoding="utf-8") as file:
        file.write(json.dumps({"format": "quarry-recording", "version": 1,
                               "command": "<script>alert(1)</script> & \"quoted\""}) + "\n")
        for second in range(20000):
            file.write(json.dumps({"t": second, "vss": 9e13, "rss": 4e12 + second * 1e8,
                                   "anon": 4e12, "file": second * 1e8, "shmem": 0,
                                   "minor": second * 1e6, "major": 0}) + "\n")
    check_page(browser, "plot.html of a huge program without a heap", plotted(plain, "html"),
               ["<script>alert(1)</script>", "resident (RSS)"])


def size(count):
    sys.path.insert(0, os.path.join(tap.ROOT, "tools", "quarry"))
    from quarrytool import show
    return show.size(count)


def plotted(name, ending):
    output = f"{name}.{ending}"
    result = tool("plot", name, "-o", output)
    if result.returncode:
        tap.check(f"plot writes {output}", False, result.stderr)
        return "<!DOCTYPE html><html><head></head><body></body></html>"
    with open(output, encoding="utf-8") as file:
        return file.read()


def check_pictures(browser):
    """The pictures of the documentation."""
    says = {"demo.svg": [], "tutorial-classes.svg": ["bytes"],
            "tutorial-keep.svg": ["resident (RSS)"], "tutorial-trim.svg": ["resident (RSS)"]}
    pictures = sorted(glob.glob(os.path.join(tap.ROOT, "docs", "images", "*.svg")))
    tap.check("the documentation has pictures", {os.path.basename(p) for p in pictures} >= set(says),
              pictures)
    for path in pictures:
        with open(path, encoding="utf-8") as file:
            check_page(browser, os.path.basename(path), file.read(),
                       says.get(os.path.basename(path), []), 1400, 1200)


def check_benchmarks(browser, folder):
    """Those that bench/run.py draws, from a short run."""
    out = os.path.join(folder, "bench")
    result = tap.run(os.path.join(tap.ROOT, "bench", "run.py"), "larson", "phases",
                     "--runs", "3", "--scale", "0.1", "--with", "quarry", "--with", "jemalloc", "--no-counts",
                     "--no-calls", "--out", out, timeout=900)
    if not tap.check("the benchmark draws", result.returncode == 0, result.stdout + result.stderr):
        return
    for name, says in (("time-memory.svg", ["glibc", "quarry"]), ("cases.svg", ["larson", "quarry"]),
                       ("memory.svg", ["MiB", "quarry"])):
        path = os.path.join(out, name)
        if tap.check(f"{name} is there", os.path.exists(path), os.listdir(out)):
            with open(path, encoding="utf-8") as file:
                check_page(browser, f"bench: {name}", file.read(), says, 1600, 1400)


def main():
    browser = chromium.find()
    if not browser:
        tap.skip("plots in a browser", "there is no Chromium; install the package chromium")
        tap.done()
    check_planted(browser)
    soak_support.progress("pictures of the documentation")
    check_pictures(browser)
    with tempfile.TemporaryDirectory(prefix="quarry-browser-") as folder:
        soak_support.progress("recordings")
        check_recordings(browser, folder)
        soak_support.progress("a short benchmark, for its plots")
        check_benchmarks(browser, folder)
    tap.done()


main()
