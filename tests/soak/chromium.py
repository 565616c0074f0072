# SPDX-License-Identifier: MIT
"""Pages in headless Chromium: what they say on the console, load, show, and how they look."""
import html
import json
import os
import re
import subprocess
import tempfile

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser")
# Whatever a page would load is refused, and the refusal is a line on the console.
POLICY = ("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
          "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">")
# Runs in the page once it is drawn.  A text is clipped where it reaches beyond its picture.
LOOK = """
<pre id="seen"></pre>
<script>
window.addEventListener("load", () => {
  const seen = {clipped: [], texts: 0, pictures: 0, text: document.body.innerText};
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    seen.pictures += frame.width > 100 && frame.height > 100;
    seen.text += " " + svg.textContent;
    const comments = document.createTreeWalker(svg, NodeFilter.SHOW_COMMENT);
    while (comments.nextNode())  // where letters are drawn as paths, a comment has the text
      seen.text += " " + comments.currentNode.data;
    for (const text of svg.querySelectorAll("text, g[id^=text_]")) {
      const box = text.getBoundingClientRect();
      if (box.width === 0) continue;
      seen.texts += 1;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        seen.clipped.push(text.textContent.trim() || text.id);
    }
  }
  for (const cell of document.querySelectorAll("td, th, h1, p"))
    if (cell.scrollWidth > cell.clientWidth + 1 && cell.clientWidth) seen.clipped.push(cell.innerText);
  seen.loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>
"""
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--no-first-run",
         "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000")


def find():
    """The browser; None where there is none."""
    return next((path for path in BROWSERS if os.access(path, os.X_OK)), None)


def _wrap(text):
    """The page with the policy at its beginning and the look at its end; an SVG gets a page."""
    if "<html" not in text:
        picture = text[text.index("<svg"):]
        text = ("<!DOCTYPE html><html><head><meta charset=\"utf-8\"></head><body>"
                f"{picture}</body></html>")
    text = text.replace("<head>", "<head>" + POLICY, 1)
    return text.replace("</body>", LOOK + "</body>", 1)


def _run(browser, folder, *words):
    return subprocess.run([browser, *FLAGS, f"--user-data-dir={folder}/profile", *words],
                          capture_output=True, text=True, errors="replace", timeout=120, check=False,
                          env=dict(os.environ, HOME=folder))


def open_page(browser, text, width=1100, height=1000):
    """What came of a page: a dict with console, clipped, texts, pictures, text, loaded, and the PNG."""
    with tempfile.TemporaryDirectory(prefix="quarry-page-") as folder:
        page, shot = os.path.join(folder, "page.html"), os.path.join(folder, "shot.png")
        with open(page, "w", encoding="utf-8") as file:
            file.write(_wrap(text))
        dumped = _run(browser, folder, "--dump-dom", f"--window-size={width},{height}",
                      "file://" + page)
        found = re.search(r'<pre id="seen">(.*?)</pre>', dumped.stdout, re.DOTALL)
        seen = json.loads(html.unescape(found[1])) if found and found[1] else {}
        seen["console"] = [line for line in dumped.stderr.splitlines() if ":CONSOLE" in line]
        seen["status"] = dumped.returncode
        seen["stderr"] = dumped.stderr
        _run(browser, folder, f"--screenshot={shot}", f"--window-size={width},{height}",
             "file://" + page)
        seen["png"] = b""
        if os.path.exists(shot):
            with open(shot, "rb") as file:
                seen["png"] = file.read()
        return seen


def colours(png):
    """How many colours a picture has, and the share of its pixels that are not of the commonest."""
    import io

    import matplotlib.image
    import numpy

    if not png:
        return 0, 0.0
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]
    _, counts = numpy.unique((pixels.reshape(-1, 3) * 255).astype(numpy.uint8), axis=0,
                             return_counts=True)
    return len(counts), 1 - counts.max() / counts.sum()
