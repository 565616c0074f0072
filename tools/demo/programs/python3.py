"""Read Python's own library as a tool would: parse, index, compile, write JSON and read it back."""
import ast
import collections
import hashlib
import json
import re
import sys
import sysconfig
from pathlib import Path

wanted = int(sys.argv[1])
library = Path(sysconfig.get_paths()["stdlib"])
digest = hashlib.sha256()
words = collections.defaultdict(list)
shapes = collections.Counter()
trees = []

for path in sorted(library.glob("*.py"))[:wanted]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    trees.append(tree)
    shapes.update(type(node).__name__ for node in ast.walk(tree))
    digest.update(ast.dump(tree).encode())
    digest.update(compile(text, path.name, "exec").co_code)
    for number, line in enumerate(text.splitlines(), 1):
        for word in re.findall(r"[A-Za-z_]\w{3,}", line):
            words[word].append((path.name, number))

packed = json.dumps(words, sort_keys=True)
again = json.loads(packed)
digest.update(packed.encode())
for word in sorted(again, key=lambda word: (-len(again[word]), word))[:20]:
    print(f"{word:20} {len(again[word]):6}")
for shape, count in sorted(shapes.items()):
    print(f"{shape:20} {count:6}")
print(len(trees), "modules,", len(again), "words", digest.hexdigest())
