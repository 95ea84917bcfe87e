"""What a person sees in a terminal of any size, without colour, in the logs of CI, and after ctrl-C."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_store import run

from windtunnel.cli import live, main, shared
from windtunnel.cli.live import MEMBERS, Follow, Live, Plain
from windtunnel.errors import printable
from windtunnel.store import Store

STEERS = "\x1b[31m\x1b]0;owned\x07\r\x9b2J\u202e"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def pack(number: int, idea: str = "base") -> Any:
    """What the displays read of a pack."""
    return SimpleNamespace(
        key=f"{number:x}" * 8, rung="width 64 x depth 2, 200k tokens", labels=[{"idea": idea}],
        specs=[SimpleNamespace(key=f"run {number}{member}") for member in "ab"], training_flops=lambda: 1e12,
    )  # fmt: skip


def progress(of: Any, step: int = 5) -> Any:
    return SimpleNamespace(pack=of.key, step=step, steps=10, losses={"a": 3.25, "b": 3.5})


def drawn(width: int, height: int = 25, count: int = 3, idea: str = "base", **options: Any) -> str:
    """All that the live display writes to a terminal of this size."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=height, highlight=False, **options)
    packs = [pack(number, idea) for number in range(1, count + 1)]
    with Live(console) as watching:
        watching.stage("ladder", packs)
        for each in packs:
            watching.progress(progress(each))
        watching.say(f"{idea}: forecast so far 2.1")
        console.print(watching._draw())
    return out.getvalue()


def test_a_pack_that_is_trained_in_parts_is_counted_as_one_pack():
    follow, (first, second) = Follow(), (pack(1), pack(2))
    follow.name = "tune"
    follow.begin([first, second])
    follow.progress(progress(first))
    assert follow.share == 0.25
    for member in first.specs:
        for step, losses in ((1, {member.key: 3.0}), (10, {})):  # at its end no member is left
            follow.progress(SimpleNamespace(pack=f"alone {member.key}", step=step, steps=10, losses=losses))
    assert follow.share == 0.5 and len(follow.members()) == 1
    assert "0 of 2 packs" in follow.head()
    follow.finished(first)
    assert follow.share == 0.5 and "1 of 2 packs" in follow.head() and not follow.members()


def test_what_is_trained_anew_in_smaller_parts_is_counted_once():
    follow, (whole,) = Follow(), (pack(1),)
    follow.begin([whole])
    members = [spec.key for spec in whole.specs]
    follow.progress(progress(whole))
    follow.progress(SimpleNamespace(pack="half", step=5, steps=10, losses=dict.fromkeys(members, 3.0)))
    assert follow.share == 0.5
    follow.progress(SimpleNamespace(pack="alone", step=1, steps=10, losses={members[0]: 3.0}))
    assert follow.share == pytest.approx((0.1 + 0.5 * (len(members) - 1)) / len(members))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_of_the_display_is_wider_than_the_terminal(width: int):
    text = ESCAPES.sub("", drawn(width))
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= width
    assert "ladder" in text and "forecast" in text


def test_the_display_is_never_taller_than_the_terminal():
    drawing = Live(Console(file=io.StringIO(), width=80, height=12))
    drawing.stage("ladder", packs := [pack(n) for n in range(1, 15)])
    for each in packs:
        drawing.progress(progress(each))
    lines = Console(file=io.StringIO(), width=80, height=12).render_lines(drawing._draw())
    assert len(lines) < 12


def test_no_colour_is_used_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m", drawn(80))


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_a_terminal_that_cannot_redraw_and_ci_get_plain_lines(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    from windtunnel.cli.run import _watch

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(_watch(), Live)
    monkeypatch.setenv(name, value)
    assert isinstance(_watch(), Plain)


def test_a_log_gets_whole_lines_without_escapes_and_names_few_packs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live, "PLAIN_SECONDS", 0.0)
    packs = [pack(number, STEERS) for number in range(1, 15)]
    with Plain() as watching:
        watching.stage("ladder", packs)
        for each in packs:
            watching.progress(progress(each))
            watching.last = 0.0
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\r" not in err and err.endswith("\n")
    last = err.splitlines()[-1]
    assert f"and {14 - MEMBERS} more packs" in last and last.count("step 5/10") == MEMBERS


def test_what_could_steer_a_terminal_is_replaced_and_all_else_is_kept():
    assert not set(printable(STEERS)) & set("\x1b\x07\r\x9b\u202e")
    assert printable("größe 2·10²²\t→ Ω\n漢字") == "größe 2·10²²\t→ Ω\n漢字"


def test_names_from_a_store_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = Store(tmp_path / "store")
    labels = {"study": STEERS, "idea": STEERS, "stage": STEERS}
    store.add(there := run(labels=labels, message=STEERS))
    for arguments in ([], [there.key]):
        assert main(["runs", *arguments, "--store", store.where]) == 0
        out = capsys.readouterr().out
        assert not set(out) & set("\x1b\x07\r\x9b\u202e") and "[31m" in out


def test_a_message_about_a_hostile_name_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "runs.csv"
    file.write_text(f"{STEERS!s},size\n1,2\n".replace("\r", ""), "utf-8")
    assert main(["fit", str(file), "--target", "params=1e9"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x07\x9b\u202e")


def test_after_an_interrupt_the_command_that_goes_on_is_named(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(shared, "load_module", interrupted)
    assert main(["run", "my study.py", "--store", "runs"]) == 130
    err = capsys.readouterr().err
    assert "finished runs are kept" in err and "windtunnel run 'my study.py' --store runs" in err
