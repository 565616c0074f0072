#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual page of the command quarry names each verb and option that there is, and no other."""
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import TOOL

SCRIPT = """import json, sys
sys.path.insert(0, sys.argv[1])
from quarrytool import cli
parser = cli.parser()
verbs = parser._subparsers._group_actions[0].choices
print(json.dumps({name: [action.option_strings for action in verb._actions if action.option_strings]
                  for name, verb in [("", parser), *verbs.items()]}))
"""
LIKE_RUN = ("rt", "record", "profile")  # take the options of the allocator that run takes
EVERY = (["-h", "--help"], ["--json"])


def parse():
    """The lines of mdoc before the list of verbs, and those of each verb's item."""
    common, items, verbs = [], {}, None
    with open(os.path.join(tap.ROOT, "docs", "man", "quarry.1"), encoding="utf-8") as file:
        text = file.read().split(".Sh DESCRIPTION\n", 1)[1].split(".Sh ENVIRONMENT\n", 1)[0]
    for line in text.splitlines():
        if line.startswith(".It Cm "):
            verbs = line[len(".It Cm "):].split(" , ")
        for name in verbs or [None]:
            (items.setdefault(name, []) if name else common).append(line)
    return common, items


def flags(lines):
    """The options that lines of mdoc name."""
    found = set()
    for line in lines:
        for words in re.findall(r"\bFl ((?:[^A-Z\s]\S* ?)+)", line):
            found |= {"-" + word for word in words.split() if re.match(r"-?\w", word)}
    return found


result = tap.succeeds("the parser is read", "/usr/bin/python3", "-B", "-c", SCRIPT, os.path.dirname(TOOL))
options = json.loads(result.stdout or "{}")
before, of_verb = parse()
tap.check("there is an item for each verb, and no other",
          options and set(of_verb) == set(options) - {""}, set(of_verb) ^ set(options))
whole = flags(before + sum(of_verb.values(), []))
known = {text for each in options.values() for action in each for text in action}
tap.equal("no option is named that there is not", whole - known, set())
tap.equal("each is named somewhere, in each of its forms", known - whole - {"-h"}, set())
for verb, actions in options.items():
    near = flags(before if not verb else of_verb.get(verb, []))
    if verb in LIKE_RUN:
        near |= flags(of_verb.get("run", []))
    tap.equal(f"the item of {verb or 'the command itself'} names its options",
              [texts for texts in actions if texts not in EVERY and not near & set(texts)], [])
tap.done()
