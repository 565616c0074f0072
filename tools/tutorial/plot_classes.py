#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Draws how much of a block is unused, by the size asked for.

usage: plot_classes.py TABLE PICTURE.svg      TABLE is what `classes all` printed
"""
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "quarry", "font.size": 9})
from matplotlib import pyplot


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    with open(sys.argv[1], encoding="ascii") as file:
        sizes = [tuple(map(int, line.split())) for line in file]
    figure, axis = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    axis.plot([asked for asked, _ in sizes], [100 * (got - asked) / got for asked, got in sizes],
              color="#0072b2", linewidth=0.7)
    axis.axvline(16384, color="#d55e00", linewidth=1, linestyle=":")
    axis.text(16384 * 0.95, 46, "objects in slabs", fontsize=8, ha="right")
    axis.text(16384 * 1.05, 46, "whole pages", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.set_xlim(16, 65536)
    axis.set_ylim(0, 50)
    axis.set_xticks([1 << n for n in range(4, 17, 2)],
                    ["16", "64", "256", "1 KiB", "4 KiB", "16 KiB", "64 KiB"])
    axis.set_xlabel("bytes asked for")
    axis.set_ylabel("% of the block unused")
    axis.grid(alpha=0.3)
    figure.savefig(sys.argv[2], format="svg", metadata={"Date": None, "Creator": "quarry"})
    print(sys.argv[2])


main()
