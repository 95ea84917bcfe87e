"""Pages whose every text is an attack, opened by a headless Chromium: what ran, and what was asked of the network.

Each payload stands in every text of a report: names, claims, caveats, hyperparameters, messages, paths. One that runs
marks the document; one that loads anything asks a server of this machine, which counts. A page that is attacked without
protection comes first, so that the counting itself is seen to work.

    python -m benchmarks.injection
"""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.common import write
from windtunnel.report.page import render

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the example page of the tests serves here

MARK = "data-ran"
RUN = f"document.documentElement.setAttribute('{MARK}','1')"


def payloads(url: str) -> list[str]:
    """Texts that would run RUN, or load something from `url`, where they were taken for markup."""
    return [
        f"<script>{RUN}</script>",
        f"</script><script>{RUN}</script>",
        f'<img src=x onerror="{RUN}">',
        f'<svg onload="{RUN}">',
        f'"><svg/onload={RUN}>',
        f"' onmouseover='{RUN}' x='",
        f'" onfocus="{RUN}" autofocus="',
        f"javascript:{RUN}",
        f'<a href="javascript:{RUN}">x</a>',
        f'<iframe src="javascript:{RUN}"></iframe>',
        f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
        f'<body onload="{RUN}">',
        f'<details open ontoggle="{RUN}">x</details>',
        f'<video><source onerror="{RUN}"></video>',
        f"<math><mtext></mtext><script>{RUN}</script></math>",
        f"<template><script>{RUN}</script></template>",
        f"--><script>{RUN}</script><!--",
        f"]]><script>{RUN}</script>",
        f"</style><script>{RUN}</script><style>",
        f"</title><script>{RUN}</script>",
        f"</textarea><script>{RUN}</script>",
        f"</svg><script>{RUN}</script>",
        f"</text></g></svg><img src=x onerror={RUN}>",
        f"<ScRiPt>{RUN}</sCrIpT>",
        f"<scr\0ipt>{RUN}</scr\0ipt>",
        f"&lt;script&gt;{RUN}&lt;/script&gt;",
        f"&#60;script&#62;{RUN}&#60;/script&#62;",
        f"\u003cscript\u003e{RUN}\u003c/script\u003e",
        "{{ 7*7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        f"${{{RUN}}}`{RUN}`",
        f"';{RUN};'",
        f'\\";{RUN};//',
        f"<set attributeName=onmouseover to={RUN}>",
        f'<animate onbegin="{RUN}" attributeName=x dur=1s>',
        f'<img src="{url}/img">',
        f'<link rel=stylesheet href="{url}/css">',
        f'<script src="{url}/js"></script>',
        f'<meta http-equiv=refresh content="0;url={url}/meta">',
        f'<object data="{url}/object"></object>',
        f"<style>@import url({url}/import);</style>",
        f'<div style="background:url({url}/style)">x</div>',
        f'<base href="{url}/base/">',
        f'<form action="{url}/form"><input autofocus onfocus=this.form.submit()></form>',
        f'<use href="{url}/use#x">',
        f'<image xlink:href="{url}/image">',
        f'<link rel=preconnect href="{url}"><embed src="{url}/embed">',
    ]


def page(payload: str) -> str:
    """A finished report in which every text begins with the payload."""
    from test_report import everything_replaced, example

    return render(everything_replaced(example(), payload))


def opened(text: str, folder: Path) -> bool:
    """Open a page in a headless Chromium; whether anything of it ran that marks the document."""
    file = folder / "page.html"
    file.write_text(text, "utf-8", "surrogatepass")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--disable-extensions",
    ]
    command = ["chromium", *options, "--disable-background-networking", "--virtual-time-budget=1500", "--dump-dom"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    return f'<html lang="en" {MARK}=' in done.stdout or f"<html {MARK}=" in done.stdout


def main() -> int:
    if shutil.which("chromium") is None:
        print("chromium is not on this machine")
        return 2
    asked: list[str] = []

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    ran, network, without = [], {}, 0
    with tempfile.TemporaryDirectory() as name:
        bare = f"<!doctype html><html><body><script>{RUN}</script><img src='{url}/seen'></body></html>"
        works = opened(bare, Path(name)) and asked == ["/seen"]
        asked.clear()
        tried = payloads(url)
        for payload in tried:
            text = page(payload)
            ran += [payload] if opened(text, Path(name)) else []
            network |= {payload: list(asked)} if asked else {}
            without += "Content-Security-Policy" not in text
            asked.clear()
    server.shutdown()
    result = {"counting works": works, "payloads": len(tried), "executions": ran, "network requests": network,
              "pages without a policy": without}  # fmt: skip
    print(json.dumps(result, indent=1))
    write("injection", result)
    return 1 if ran or network or without or not works else 0


if __name__ == "__main__":
    sys.exit(main())
