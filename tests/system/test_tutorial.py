#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/TUTORIAL.md is what its template says: every command in it works, and what it names exists."""
import os
import re
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import tap

sys.path.insert(0, os.path.join(tap.ROOT, "tools", "tutorial"))
import make_tutorial

TOOL = os.path.join(tap.ROOT, "tools", "quarry", "quarry")
CHAPTERS, PICTURES_MOST, PICTURE_BYTES, LINES_MOST = 9, 4, 60000, 550
EXACT = "quarry run -q -- build/tutorial/classes"  # prints the same everywhere
CALL = re.compile(r"\b(?:tools/quarry/)?quarry ([a-z]+)((?: [^`|<>\n]*)?)")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def helps():
    """What each verb's --help says."""
    verbs = re.findall(r"^    ([a-z]+)\b", tap.run(TOOL, "--help").stdout, re.MULTILINE)
    return {verb: tap.run(TOOL, verb, "--help").stdout for verb in verbs}


def unknown_calls(page, known):
    """The command lines of a page that name a verb or an option that the tool does not have."""
    wrong = []
    code = re.findall(r"^\$ (.*)$", page, re.MULTILINE) + re.findall(r"`([^`\n]+)`", page)
    for line in code:
        for verb, rest in CALL.findall(line):
            options = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest.split(" -- ")[0])
            if verb not in known or any(
                    not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known[verb])
                    for option in options):
                wrong.append(line)
    return wrong


def missing_links(page):
    """The targets of a page in docs/ that are not there."""
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", page)]
    return [target for target in targets
            if target and not os.path.exists(os.path.join(tap.ROOT, "docs", target))]


def stale_parts(page, template):
    """The prose of a template that a page does not have, in this order."""
    wrong, at = [], 0
    pieces = make_tutorial.PLACE.split(template)[::make_tutorial.PLACE.groups + 1]
    for piece in pieces:
        found = page.find(piece.strip(), at)
        if found < 0:
            wrong.append(piece.strip())
        else:
            at = found + len(piece.strip())
    return wrong


def printed(page, command):
    """What a page shows that a command printed, and the figures that its prose takes from it."""
    found = re.search(rf"^\$ \S*{re.escape(command)}\n(.*?)^```$(.*?)^## ", page,
                      re.MULTILINE | re.DOTALL)
    return [found[1], re.findall(r"[\d.]+\s+%", found[2])] if found else None


def check_page(page, template, known):
    tap.check("no place is left unfilled", "{{" not in page and "}}" not in page)
    tap.equal("the page has the prose of the template", stale_parts(page, template), [])
    commands = [text for kind, _, text in make_tutorial.places(template) if kind in ("start", "run")]
    tap.equal("the page has the commands of the template",
              re.findall(r"^\$ (.*)$", page, re.MULTILINE), commands)
    chapters = re.split(r"^## (?=\d)", page, flags=re.MULTILINE)[1:]
    tap.equal("the chapters are numbered", [int(chapter.split()[0]) for chapter in chapters],
              list(range(1, CHAPTERS + 1)))
    tap.check("each chapter has a command, what to see in its output, and one exercise", all(
        "\n$ " in chapter and "*What to see.*" in chapter and chapter.count("**Exercise.**") == 1
        for chapter in chapters))
    tap.check(f"at most {LINES_MOST} lines", page.count("\n") <= LINES_MOST, page.count("\n"))
    tap.equal("verbs and options exist", unknown_calls(page, known), [])
    tap.equal("links lead somewhere", missing_links(page), [])
    pictures = re.findall(r"!\[[^]]+\]\((images/tutorial-\w+\.svg)\)", page)
    folder = os.path.join(tap.ROOT, "docs", "images")
    tap.equal("all pictures are shown", sorted(pictures), sorted(
        "images/" + name for name in os.listdir(folder) if name.startswith("tutorial-")))
    tap.check("pictures are few and small", 0 < len(pictures) <= PICTURES_MOST and all(
        os.path.getsize(os.path.join(tap.ROOT, "docs", name)) < PICTURE_BYTES for name in pictures))


def check_commands(template, folder, shown):
    """Each place of the template is filled, with the library under test."""
    os.environ["QUARRY_LIBRARY"] = tap.LIBRARY
    make_tutorial.build()
    page = make_tutorial.make(template, folder, lambda place, wrong: tap.check(
        place.replace("#", "number"), wrong is None, wrong))
    tap.check("nothing is left to fill", "{{" not in page)
    tap.check("the page shows what is printed now", printed(page, EXACT))
    tap.equal("classes are as the page shows them", printed(shown, EXACT), printed(page, EXACT))
    tap.check("the page tells nothing of this machine", not any(
        secret in page for secret in (tap.ROOT, folder, f" {os.uname().nodename} ")))


def check_checks(page, known):
    """Planted faults are found."""
    told = []
    make_tutorial.make("{{run: exit 3}}\n{{run status=3: exit 3}}\n{{run from=x: echo y}}\n"
                       "{{last: nothing}}\n{{enter: nobody}}\n{{start: false}}\n",
                       told=lambda _, wrong: told.append(wrong is None))
    tap.equal("a command that fails is noticed, and a program that ends", told,
              [False, True, False, False, False, False])
    for planted in ("quarry frobnicate", "tools/quarry/quarry run --frobnicate -- true",
                    "quarry lazy -x"):
        tap.check(f"{planted}: noticed", unknown_calls(f"`{planted}`", known))
    tap.equal("a link to nothing is noticed", missing_links("[a](nothing.md)"), ["nothing.md"])
    tap.equal("changed prose is noticed", stale_parts(page, "## 1 Nothing\n"), ["## 1 Nothing"])
    tap.equal("what is left out is marked", make_tutorial.trim(
        list("abcdef"), ["from=b", "to=c", "maybe=x", "to=y", "from=e"]), ["...", "b", "...", "e", "f"])


def main():
    template, page, known = read(make_tutorial.TEMPLATE), read(make_tutorial.PAGE), helps()
    tap.check("the tool has verbs", len(known) > 9, known.keys())
    check_page(page, template, known)
    check_checks(page, known)
    with tempfile.TemporaryDirectory() as folder:
        check_commands(template, folder, page)
    tap.done()


main()
