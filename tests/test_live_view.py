"""The live view: the same page while runs arrive, read-only, and deaf to whatever is not its own reader."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_store import run

from windtunnel.cli import main
from windtunnel.errors import InputError
from windtunnel.report.page import render
from windtunnel.report.pages import ASK_SECONDS, LOOK_SECONDS, SHARE, WATCHED_SECONDS, Pages, Source
from windtunnel.report.serve import Address, Guard
from windtunnel.report.stored import stored_data, study_names
from windtunnel.store import Store

HOSTILE = "<script>alert(1)</script>/../../etc/passwd\x1b[31m\r\nX: y" + "long" * 2500
HERE = Address("127.0.0.1", 8640)


def labelled(seed: int, study: str, idea: str = "base", stage: str = "ladder", **changes: Any) -> Any:
    return run(seed, labels={"study": study, "idea": idea, "stage": stage}, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    there = Store(tmp_path / "store")
    for seed in range(3):
        there.add(labelled(seed, "first flight"))
    there.add(labelled(10, HOSTILE, HOSTILE, message=HOSTILE))
    return there


# the guard, without a server


def asked(guard: Any, path: str = "/", method: str = "GET", query: str = "", **headers: str) -> tuple[int, dict, bytes]:
    """One request given to an ASGI application: status, headers, body."""
    told = {"host": "127.0.0.1:8640"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
    }  # fmt: skip
    heard: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        heard.append(message)

    asyncio.run(guard(scope, receive, send))
    answered = {name.decode().lower(): value.decode() for name, value in heard[0]["headers"]}
    return heard[0]["status"], answered, b"".join(m.get("body", b"") for m in heard[1:])


async def anything(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a page"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_every_method_that_could_write_is_refused(method: str):
    status, headers, body = asked(Guard(anything, HERE, None), method=method)
    assert status == 405 and headers["allow"] == "GET, HEAD" and body == b"The live view only reads."


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8640", "127.0.0.1", "127.0.0.1:1", "", "localhost"])
def test_a_name_that_somebody_made_mean_this_machine_is_refused(host: str):
    assert asked(Guard(anything, HERE, None), host=host)[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8640", "localhost:8640", "LOCALHOST:8640", "[::1]:8640"])
def test_its_own_names_are_answered(host: str):
    assert asked(Guard(anything, HERE, None), host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://localhost:8640"])
def test_other_origins_are_refused_and_its_own_is_not(origin: str):
    assert asked(Guard(anything, HERE, None), origin=origin)[0] == 403
    assert asked(Guard(anything, HERE, "token"), origin=origin, cookie="windtunnel-8640=token")[0] == 403
    assert asked(Guard(anything, HERE, None), origin="http://127.0.0.1:8640")[0] == 200


def test_what_another_sites_page_loads_is_refused_and_a_link_from_it_is_not():
    guard = Guard(anything, HERE, None)
    for dest in ("script", "image", "iframe", "empty", "style"):
        assert asked(guard, sec_fetch_site="cross-site", sec_fetch_dest=dest)[0] == 403
    assert asked(guard, sec_fetch_site="cross-site", sec_fetch_dest="document")[0] == 200
    assert asked(guard, sec_fetch_site="same-origin", sec_fetch_dest="empty")[0] == 200


def test_with_a_token_nobody_reads_without_it():
    guard = Guard(anything, HERE, "s3cret")
    assert asked(guard)[0] == 401
    assert asked(guard, query="token=s3cre")[0] == 401
    assert asked(guard, cookie="windtunnel-8640=other")[0] == 401
    assert asked(guard, cookie="windtunnel-1=s3cret")[0] == 401
    assert asked(guard, authorization="Bearer ")[0] == 401
    assert asked(guard, authorization="Bearer s3cret")[0] == 200
    assert asked(guard, cookie="a=b; windtunnel-8640=s3cret")[0] == 200


def test_the_token_of_an_address_becomes_a_cookie_and_leaves_the_address():
    status, headers, _ = asked(Guard(anything, HERE, "s3cret"), query="token=s3cret")
    assert status == 303 and headers["location"] == "./"
    assert headers["set-cookie"] == "windtunnel-8640=s3cret; HttpOnly; SameSite=Lax; Path=/"


def test_every_answer_forbids_frames_guessing_and_referrers():
    for guard, status in ((Guard(anything, HERE, None), 200), (Guard(anything, HERE, "t"), 401)):
        found, headers, _ = asked(guard)
        assert found == status and headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"


# addresses


@pytest.mark.parametrize(
    "text, host, port, loopback",
    [
        ("8640", "127.0.0.1", 8640, True), (":0", "127.0.0.1", 0, True), ("localhost:80", "127.0.0.1", 80, True),
        ("[::1]:8640", "::1", 8640, True), ("0.0.0.0:8640", "0.0.0.0", 8640, False), ("[::]:1", "::", 1, False),
        ("192.168.1.4:8640", "192.168.1.4", 8640, False),
    ],
)  # fmt: skip
def test_an_address_says_whether_only_this_machine_reaches_it(text: str, host: str, port: int, loopback: bool):
    found = Address.parse(text)
    assert (found.host, found.port, found.loopback) == (host, port, loopback)


@pytest.mark.parametrize("text", ["", "here", "host:80", "127.0.0.1", "127.0.0.1:70000", "1.2.3:4", "80:-1", "8 0"])
def test_an_address_that_is_none_is_explained(text: str):
    with pytest.raises(InputError, match="is no place to serve at"):
        Address.parse(text)


# pages that are kept


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A source that counts how often it was asked, and takes as long as it is told to."""

    def __init__(self, clock: Clock, takes: float = 0.0) -> None:
        self.clock, self.takes, self.asked = clock, takes, 0

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        self.clock.now += self.takes
        return {"study": f"asked {self.asked}", "answer": ["so far"]}


def kept(store: Store, takes: float = 0.0) -> tuple[Pages, Counted, Clock, str]:
    clock = Clock()
    data = Counted(clock, takes)
    source = Source("counted", data)
    return Pages(store, lambda: [source], clock, clock), data, clock, source.id


def test_fifty_readers_cost_one_build(store: Store):
    pages, data, clock, id = kept(store)
    for _ in range(50):
        pages.page(id)
    clock.now += 5
    pages.refresh()
    for _ in range(50):
        page = pages.page(id)
        clock.now += 5
        pages.refresh()
    assert page is not None and data.asked == 1 and b"asked 1" in page.text


def test_a_new_run_is_seen_by_who_looks_and_costs_nothing_where_nobody_looks(store: Store):
    pages, data, clock, id = kept(store)
    assert pages.refresh() == 0 and data.asked == 0  # nobody looked yet
    first = pages.page(id)
    assert pages.refresh() == 1 and pages.page(id) != first
    store.add(labelled(99, "first flight"))
    clock.now += LOOK_SECONDS
    assert pages.refresh() == 1
    store.add(labelled(98, "first flight"))
    clock.now += ASK_SECONDS + WATCHED_SECONDS + 1
    assert pages.refresh() == 0


def test_readers_are_told_when_to_look_again_and_a_page_is_kept_for_those_who_do(store: Store):
    pages, data, clock, id = kept(store, takes=2.0)
    assert pages.again() == ASK_SECONDS
    pages.page(id)
    pages.refresh()
    assert data.asked == 1 and pages.again() == pytest.approx(2.0 / SHARE + LOOK_SECONDS)
    for seed in range(100, 105):  # a reader who looks no more often than that sees every build
        pages.page(id)
        store.add(labelled(seed, "first flight"))
        clock.now += pages.again()
        assert pages.refresh() == 1


def test_a_page_that_takes_long_is_built_so_seldom_that_its_share_of_a_core_is_kept(store: Store):
    pages, data, clock, id = kept(store, takes=10.0)
    started = clock.now
    for seed in range(100, 200):
        store.add(labelled(seed, "first flight"))
        pages.page(id)
        pages.refresh()
        clock.now += 20.0
    assert data.asked > 1 and data.asked * 10.0 <= SHARE * (clock.now - started) + 10.0


def test_ten_studies_that_are_looked_at_take_together_what_one_takes_and_take_turns(store: Store):
    clock = Clock()
    sources = [Source(f"study {n}", Counted(clock, 1.0)) for n in range(10)]
    pages = Pages(store, lambda: sources, clock, clock)
    asked = [source.data for source in sources]
    for seed in range(100, 400):
        store.add(labelled(seed, "first flight"))
        for source in sources:
            pages.page(source.id)
        pages.refresh()
        if seed == 100:
            assert [data.asked for data in asked] == [1] * 10  # who looks for the first time does not wait
            started, first = clock.now, sum(data.asked for data in asked)
        clock.now += 10.0
    later = sum(data.asked for data in asked) - first
    assert 10 < later <= SHARE * (clock.now - started) + 1
    assert max(data.asked for data in asked) - min(data.asked for data in asked) <= 1


def test_who_opens_a_page_that_was_never_built_does_not_wait_for_what_another_one_took(store: Store):
    clock = Clock()
    long, short = Source("long", Counted(clock, 5.0)), Source("short", Counted(clock))
    pages = Pages(store, lambda: [long, short], clock, clock)
    pages.page(long.id)
    pages.refresh()
    pages.page(short.id)
    assert pages.again(long.id) > 100 and pages.again(short.id) == ASK_SECONDS
    assert pages.refresh() == 1 and pages.again(short.id) == pages.again(long.id)


def test_a_damaged_record_is_said_in_the_page_and_does_not_end_the_server(store: Store):
    def damaged() -> dict[str, Any]:
        raise InputError("run.json is <b>damaged</b>")

    pages = Pages(store, lambda: [Source("s", damaged)])
    (id,) = pages.shown
    pages.page(id)
    assert pages.refresh() == 1
    page = pages.page(id)
    assert page is not None and b"run.json is &lt;b&gt;damaged&lt;/b&gt;" in page.text


def test_a_store_whose_studies_cannot_be_read_keeps_the_pages_it_has_and_says_so_within_its_share(store: Store):
    clock, damaged = Clock(), [False]
    data = Counted(clock)

    def sources() -> list[Source]:
        clock.now += 5.0
        if damaged[0]:
            raise InputError("run.json is <b>damaged</b>")
        return [Source("counted", data)]

    pages = Pages(store, sources, clock, clock)
    (id,) = pages.shown
    pages.page(id)
    pages.refresh()
    damaged[0] = True
    store.add(labelled(90, "first flight"))
    pages.page(id)
    clock.now += pages.again(id)
    assert pages.refresh() == 1 and data.asked == 2
    assert b"run.json is &lt;b&gt;damaged&lt;/b&gt;" in pages.index().text and b">counted<" in pages.index().text
    assert pages.again() >= 5.0 / SHARE
    damaged[0] = False
    store.add(labelled(91, "first flight"))
    clock.now += pages.again()
    pages.refresh()
    assert b"damaged" not in pages.index().text


def test_a_study_that_begins_later_joins_the_list(store: Store):
    clock = Clock()
    pages = Pages(store, lambda: [Source(name, dict) for name in study_names(store)], clock, clock)
    assert b">second<" not in pages.index().text
    store.add(labelled(50, "second"))
    clock.now += LOOK_SECONDS
    pages.refresh()
    assert b">second<" in pages.index().text


# pages from records alone


def test_a_page_from_records_shows_each_run_of_its_study_and_no_other(store: Store):
    found = stored_data(store, "first flight")
    assert {row["key"] for row in found["runs"]} == {run(seed).key for seed in range(3)}
    assert found["cost"]["runs"] == 3 and found["runs"][0]["hyperparameters"] == {"lr": 0.01}
    assert "None" not in render(found)


def test_hostile_names_are_text_in_every_page_of_the_view(store: Store):
    pages = Pages(store, lambda: [Source(n, lambda n=n: stored_data(store, n)) for n in study_names(store)])
    for id in pages.shown:
        pages.page(id)
    assert pages.refresh() == 2
    texts = [pages.index().text, *(shown.page.text for shown in pages.shown.values())]
    assert all(b"<script>alert" not in text for text in texts)
    assert sum(b"&lt;script&gt;alert(1)" in text for text in texts) == 2  # the list and its own page
    assert all(set(id) <= set("0123456789abcdef") for id in pages.shown)


# the real server


@contextlib.contextmanager
def serving(store: Store, address: str = "127.0.0.1:0") -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    """`windtunnel report --serve` as a user starts it: the address it printed, its port, its process."""
    pytest.importorskip("starlette", reason="the live view needs starlette")
    pytest.importorskip("uvicorn", reason="the live view needs uvicorn")
    command = [sys.executable, "-m", "windtunnel", "report", "--serve", address, "--store", store.where, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(3)]
            url = json.loads("".join(lines))["url"]
            yield url, int(url.split(":")[2].split("/")[0]), process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as link:
        link.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            link.putheader(name.replace("_", "-"), value)
        link.endheaders()
        with link.getresponse() as answer:
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_the_server_shows_a_store_writes_nothing_and_leaves_no_file_reachable(store: Store):
    before = sorted(str(path) for path in Path(store.where).rglob("*"))
    key = next(iter(store.keys()))
    with serving(store) as (url, port, process):
        assert url == f"http://127.0.0.1:{port}/"
        status, headers, body = get(port, "/")
        assert status == 200 and b"first flight" in body and headers["content-type"].startswith("text/html")
        assert "server" not in headers
        status, headers, _ = get(port, "/", If_None_Match=headers["etag"])
        assert status == 304 and float(headers["x-look-again"]) >= ASK_SECONDS
        status, _, record = get(port, f"/runs/{key}/run.json")
        assert status == 200 and json.loads(record)["key"] == key
        for path in (
            "/../../etc/passwd", "/study/../../etc/passwd", "/study/%2e%2e%2f%2e%2e%2fstore.json", "/store.json",
            "/runs/..%2f..%2fstore.json/run.json", "/runs/../../store.json", f"/runs/{key[:8]}/run.json",
            "/runs/%00/run.json", "//etc/passwd", "/study/" + "a" * 5000, "/packs/", "/runs/" + "f" * 64 + "/run.json",
        ):  # fmt: skip
            status, _, body = get(port, path)
            assert status in (307, 404) and b"root:" not in body and b'"format"' not in body, path
        assert get(port, "/", "POST")[0] == 405 and get(port, "/", "DELETE")[0] == 405
        assert get(port, "/", Host="evil.example")[0] == 421
        with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: " + b"x" * 200_000 + b"\r\n\r\n")
            assert b"200 OK" not in link.recv(1000)
        assert get(port, "/")[0] == 200  # it is still there
    assert process.returncode == 0
    assert sorted(str(path) for path in Path(store.where).rglob("*")) == before


def test_at_any_other_address_the_server_asks_for_its_token(store: Store):
    with serving(store, "0.0.0.0:0") as (url, port, _):
        token = url.split("?token=")[1]
        assert len(token) >= 32
        assert get(port, "/")[0] == 401 and get(port, "/", Authorization="Bearer wrong")[0] == 401
        status, headers, _ = get(port, f"/?token={token}")
        assert status == 303 and get(port, "/", Cookie=headers["set-cookie"].split(";")[0])[0] == 200


def test_a_port_that_is_taken_is_explained(store: Store, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["report", "--serve", str(port), "--store", store.where]) == 2
    assert "Give another port, or 0 for any" in capsys.readouterr().err


def test_without_its_libraries_the_live_view_says_what_to_install(store: Store):
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from windtunnel.cli import main\n"
        f"sys.exit(main(['report', '--serve', '0', '--store', {store.where!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and "pip install 'windtunnel[live]'" in done.stderr and "Traceback" not in done.stderr


def test_report_without_a_study_says_what_it_needs(store: Store, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--store", store.where]) == 2
    assert "report needs a STUDY.py" in capsys.readouterr().err
