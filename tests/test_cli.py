"""The command line: what it promises of exit codes, of its two streams, and of a store when the input is wrong."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

import windtunnel as wt
from windtunnel.cli import VERBS, main, parser
from windtunnel.cli.shared import command_of, load_study, page_name
from windtunnel.launch.one import execute

# The frozen surface. A change here is a change that users' scripts see: say so in the changelog.
FLAGS = {
    "check": {"IDEA.py", "--store", "--json"},
    "plan": {"STUDY.py", "--store", "--json", "--on", "--devices", "--slurm"},
    "run": {"STUDY.py", "--store", "--json", "--on", "--devices", "--slurm", "--precision", "--budget"},
    "forecast": {"STUDY.py", "--store", "--json"},
    "fit": {"RUNS", "--columns", "--target", "--targets", "--level", "--base", "--budget", "--json"},
    "report": {"STUDY.py", "--serve", "--figures", "--store", "--json"},
    "runs": {"KEY", "--store", "--json"},
    "score": {
        "FORECAST",
        "RUN",
        "--store",
        "--json",
        "--follow",
        "--columns",
        "--ladder",
        "--tokens-per-step",
        "--horizon",
        "--every",
        "--once",
        "--warn-below",
    },
}
NAMES = [
    "Allocation", "BestHyperparameters", "Chinchilla", "Curve", "DataShape", "Fit", "Forecast", "InputError",
    "Interval", "Judge", "Ladder", "Observations", "Outcome", "PlainPowerLaw", "Plan", "PowerLaw", "Recipe", "Result",
    "Run", "RunSpec", "Rung", "Score", "Site", "Size", "Store", "Study", "Target", "Tuning", "Verdict", "adopt",
    "allocate", "backtest", "best_hyperparameters", "bridge", "checks", "choose_schedule", "compare",
    "compare_fairly", "compare_parametrizations", "curvature", "curve_of", "data", "fair", "fit", "fit_curves",
    "fit_mixture",
    "fit_power_schedule", "fit_surface", "fit_task", "flops_for", "forecast", "ideas", "laws", "meta", "next_runs",
    "odd_rungs", "parts", "read_runs", "recipes", "scaling", "score", "searches", "smaller_ladders", "smallest_ladder",
    "transfer_check", "tuned", "unidentified", "worlds",
]  # fmt: skip

STUDY = """
import tiny
import windtunnel as wt

corpus = {corpus!r}
study = tiny.study(corpus)
"""
BASE = (
    STUDY
    + """
study = tiny.study(corpus, ideas=[], tuning=wt.Tuning(points=3, seeds=1, recheck=0), train_target=False)
"""
)


@pytest.fixture
def write(tmp_path, corpus, monkeypatch):
    """Write a study file and forget the module afterwards; {corpus} is filled in."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def writing(text: str | bytes, name: str = "asked_study.py") -> str:
        path = tmp_path / name
        if isinstance(text, str):
            text = text.replace("{corpus!r}", repr(str(corpus))).encode()
        path.write_bytes(text)
        return str(path)

    yield writing
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command line that must be refused: code 2, one message, nothing written. Gives the message."""

    def refusing(*arguments: str) -> str:
        store = tmp_path / "store"
        before = sorted(store.rglob("*")) if store.exists() else None
        code = main([*arguments, "--store", str(store)])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.startswith("windtunnel: ") and err.count("\n") == 1 and "Traceback" not in err
        assert (sorted(store.rglob("*")) if store.exists() else None) == before
        return err

    return refusing


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The folder of a store with the runs of `BASE`, and the study file."""
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "trained_study.py"
    file.write_text(BASE.replace("{corpus!r}", repr(str(corpus))))
    assert main(["run", str(file), "--store", str(folder / "store"), "--devices", "1"]) in (0, 3)
    return folder


# the frozen surface


def options(verb: str) -> set[str]:
    sub = next(a for a in parser([verb])._actions if isinstance(a, argparse._SubParsersAction)).choices[verb]
    return {
        name
        for action in sub._actions
        if not isinstance(action, argparse._HelpAction)
        for name in (action.option_strings or [str(action.metavar or action.dest)])
    }


def test_the_verbs_are_the_frozen_ones():
    assert set(VERBS) == set(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_are_the_frozen_ones(verb):
    assert options(verb) == FLAGS[verb]


def test_the_public_names_are_the_frozen_ones_and_each_resolves():
    assert list(wt.__all__) == NAMES
    assert all(getattr(wt, name) is not None for name in NAMES)


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {verb} " in out for verb in VERBS)


# a wrong study file

WRONG_FILES = {
    "no study in it": ("x = 1\n", "has no variable `study`"),
    "a study that is something else": ("study = {'a': 1}\n", "has a `study` that is a dict"),
    "not Python": ("study = = 1\n", "is not Python that can be read"),
    "indented wrongly": ("def f():\nreturn 1\n", "is not Python that can be read"),
    "bytes": (b"\x80\x00\xff\xfe", "is not Python that can be read"),
    "empty": ("", "has no variable `study`"),
    "raises": ("x = 1\ny = 1 / 0\nstudy = x\n", "stopped while it was loaded, at line 2: ZeroDivisionError"),
    "imports nothing real": ("import no_such_module_here\n", "stopped while it was loaded, at line 1"),
    "leaves": ("import sys\nsys.exit(0)\n", "stopped while it was loaded, at line 2: SystemExit"),
    "raises a ValueError": ("x = 1\nint('seven')\n", "stopped while it was loaded, at line 2: ValueError"),
}


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_wrong_study_file_is_explained(write, refused, verb, wrong):
    text, says = WRONG_FILES[wrong]
    assert says in refused(verb, write(text))


def test_a_file_that_is_not_there_is_explained(refused, tmp_path):
    assert "does not exist or is not a file" in refused("run", str(tmp_path / "none.py"))
    assert "does not exist or is not a file" in refused("run", str(tmp_path))


def test_a_file_of_another_kind_is_explained(write, refused):
    assert "its name must end in .py" in refused("run", write(STUDY, "asked_study.txt"))
    assert "its name must be letters" in refused("run", write(STUDY, "asked-study.py"))


def test_a_file_with_the_name_of_a_module_is_explained(write, refused):
    assert "has the name of another module (json); rename the file" in refused("run", write(STUDY, "json.py"))


# a wrong question

WRONG_QUESTIONS = {
    "two rungs": ("ladder=wt.Ladder.widths((8, 16), depth=1, tokens=1024)", "needs at least 3"),
    "rungs that shrink": ("ladder=wt.Ladder.widths((16, 12, 8), depth=1, tokens=1024)", "Rungs must grow"),
    "a target inside the ladder": (
        "target=wt.Target(rung=wt.Rung(width=16, depth=1, heads=2, tokens=1024))",
        "lies inside the ladder",
    ),
    "an empty target": ("target=wt.Target()", "Target is empty"),
    "an inverted range": (
        "base=tiny.recipe(corpus, optimizer=tiny.SignMomentum(lr=wt.tuned(1e-1, 1e-3)))",
        "empty or inverted range",
    ),
    "an empty range": (
        "base=tiny.recipe(corpus, optimizer=tiny.SignMomentum(lr=wt.tuned(1e-2, 1e-2)))",
        "empty or inverted range",
    ),
    "a negative range": (
        "base=tiny.recipe(corpus, optimizer=tiny.SignMomentum(lr=wt.tuned(-1, 1e-2)))",
        "empty or inverted range",
    ),
    "an idea that is no recipe": ("ideas=[repr]", "an idea takes a Recipe"),
    "no name": ("name=''", "Study name is ''"),
    "a probability in percent": ("level=90", "Study level is 90"),
    "too little tuning": ("tuning=wt.Tuning(points=2)", "at least 3 points"),
    "a recheck outside the ladder": ("tuning=wt.Tuning(recheck_rung=9)", "recheck_rung is 9"),
    "a slot that is none": ("base=tiny.recipe(corpus, optimiser=1)", "A Recipe has no slot optimiser"),
    "heads that do not divide": (
        "target=wt.Target(rung=wt.Rung(width=50, depth=1, heads=7, tokens=1024))",
        "cannot be split over 7 heads",
    ),
    "a judge of nothing": ("judge=wt.Judge(data=tiny.text(corpus), tokens=0)", "must be at least 1"),
}


@pytest.mark.parametrize("wrong", WRONG_QUESTIONS)
def test_a_wrong_question_is_explained(write, refused, wrong):
    change, says = WRONG_QUESTIONS[wrong]
    text = STUDY.replace("tiny.study(corpus)", f"tiny.study(corpus, {change})")
    assert says in refused("run", write(text))


# wrong data


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "holds no text"),
        (b" \n\n \n", "holds no text"),
        (b"PK\x03\x04\x00\x00" * 500, "it holds a NUL byte"),
        (b"caf\xe9 " * 500, "is not UTF-8 text"),
        (b"too short", "give more documents"),
        (None, "No file matches"),
    ],
)
def test_a_corpus_that_is_no_text_is_explained(write, refused, tmp_path, content, says):
    folder = tmp_path / "wrong"
    folder.mkdir()
    if content is not None:
        (folder / "a.txt").write_bytes(content)
    text = f"import tiny\nstudy = tiny.study({str(folder)!r})\n"
    assert says in refused("run", write(text))


def test_a_corpus_shorter_than_the_target_names_the_passes_and_the_remedy(write, refused):
    target = "target=wt.Target(rung=wt.Rung(width=48, depth=1, heads=6, tokens=10_000_000))"
    message = refused("run", write(STUDY.replace("tiny.study(corpus)", f"tiny.study(corpus, {target})")))
    assert "10,000,000 training tokens are asked for, which needs" in message
    assert "passes over the" in message and "allow them with repeat=True" in message


# a wrong store


def test_a_store_of_a_newer_version_is_explained(write, refused, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text('{"format": 99}')
    file = write(STUDY)
    for verb in ("plan", "run", "report", "forecast"):
        assert "made by a newer windtunnel: upgrade" in refused(verb, file)
    assert "made by a newer windtunnel: upgrade" in refused("runs")


def test_a_folder_that_is_no_store_is_explained_and_left_alone(write, refused, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("do not lose")
    assert "is not a windtunnel store" in refused("run", write(STUDY))
    assert (tmp_path / "store" / "thesis.txt").read_text() == "do not lose"


def test_a_store_that_is_a_file_is_explained(write, refused, tmp_path):
    (tmp_path / "store").write_text("a file")
    assert "is not a windtunnel store" in refused("run", write(STUDY))


@pytest.mark.parametrize("verb", ["report", "forecast"])
def test_verbs_that_read_need_a_store(write, refused, verb):
    assert "There is no store at" in refused(verb, write(STUDY))


def test_unknown_keys_are_explained(refused):
    assert "There is no store at" in refused("runs", "abc")
    assert "There is no store at" in refused("score", "abc", "def")


def test_an_unknown_key_of_a_store_names_the_way_to_the_known_ones(trained, capsys):
    store = str(trained / "store")
    assert main(["runs", "nokey", "--store", store]) == 2
    assert "`windtunnel runs` lists the keys" in capsys.readouterr().err
    assert main(["score", "nokey", "nokey", "--store", store]) == 2
    assert "forecasts in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["run"], ["fly"], [], ["plan", "a.py", "--devices", "0"], ["plan", "a.py", "--lr", "1"]]
)
def test_a_wrong_command_line_ends_with_two(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert "usage: windtunnel" in capsys.readouterr().err


# what a good input gives


def one_object(out: str) -> dict:
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_json_is_one_object_for_each_verb(trained, capsys, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    file, store = str(trained / "trained_study.py"), str(tmp_path / "copy" / "store")
    for verb, expected in {"plan": "missing", "run": "forecasts", "forecast": "forecasts", "report": "report"}.items():
        assert main([verb, file, "--store", store, "--json"]) in (0, 3)
        assert expected in one_object(capsys.readouterr().out)
    assert main(["runs", "--store", store, "--json"]) == 0
    key = one_object(capsys.readouterr().out)["runs"][0]["key"]
    assert main(["runs", key[:10], "--store", store, "--json"]) == 0
    assert one_object(capsys.readouterr().out)["key"] == key
    forecast = wt.Store(store).forecasts()[0]["key"]
    assert main(["score", forecast[:8], key, "--store", store, "--json"]) == 2
    assert "so it says nothing of this run" in capsys.readouterr().err  # a ladder run is not what was foretold


def test_a_finished_study_runs_again_with_the_same_answer_on_stdout_and_the_story_on_stderr(trained, capsys):
    file, store = str(trained / "trained_study.py"), str(trained / "store")
    arguments = ["run", file, "--store", store, "--devices", "1"]
    first = (main(arguments), capsys.readouterr())
    second = (main(arguments), capsys.readouterr())
    assert first == second
    assert "base: loss at width 48" in first[1].out and f"repeat: windtunnel run {file}" in first[1].out
    assert "Traceback" not in first[1].err


def test_plan_writes_nothing(write, tmp_path, capsys):
    assert main(["plan", write(STUDY), "--store", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    assert "sign_momentum" in out and "runs to train" in out
    assert not (tmp_path / "store").exists()


def test_runs_lists_every_record(trained, capsys):
    assert main(["runs", "--store", str(trained / "store")]) == 0
    out = capsys.readouterr().out
    keys = list(wt.Store(trained / "store").keys())
    assert all(key[:12] in out for key in keys) and f"{len(keys)} runs in" in out


def test_an_idea_of_a_long_name_stays_in_its_column(corpus, tmp_path, capsys):
    store, name = wt.Store(tmp_path / "store"), "weight_standardization_everywhere"
    pack = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}])
    execute(replace(pack, labels=({"idea": name, "stage": "ladder"},)), store, device=tiny.CPU)
    assert main(["runs", "--store", str(tmp_path / "store")]) == 0
    head, line, _ = capsys.readouterr().out.splitlines()
    assert f" {name}  ladder " in line and line.index("ladder") == head.index("stage")


def test_the_command_that_repeats_a_study_knows_the_precision_of_its_runs(trained, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = load_study(str(trained / "trained_study.py")).answer(wt.Store(trained / "store"))
    args = argparse.Namespace(study="study.py", store="store")
    assert command_of(result, args) == "windtunnel run study.py --store store"
    low = replace(result.ladder["base"][0], cost=replace(result.ladder["base"][0].cost, precision="bfloat16"))
    assert command_of(replace(result, ladder={"base": (low,)}), args).endswith(" --precision bfloat16")


def test_no_two_names_of_studies_share_a_page_and_plain_ones_are_the_pages():
    names = ["a-b", "a b", "a/b", ".", "..", " ", "", "-", ".a", "a", "\udce9"]
    pages = [page_name(name) for name in names]
    assert len(set(pages)) == len(names) and pages[0] == "a-b.html" and pages[9] == "a.html"
    assert not [page for page in pages if page[0] in ".-" and page != "-.html"]
    assert page_name("a b").startswith("a-b-")


def test_figures_over_a_file_are_refused_before_the_page_is_rewritten(trained, tmp_path, capsys):
    def pages():
        return {page: page.stat().st_mtime_ns for page in (trained / "store").glob("*.html")}

    before = pages()
    (tmp_path / "file").touch()
    arguments = ["report", str(trained / "trained_study.py"), "--store", str(trained / "store")]
    assert main([*arguments, "--figures", str(tmp_path / "file")]) == 2
    assert "Figures need a folder" in capsys.readouterr().err
    assert pages() == before != {}


def test_a_store_in_memory_is_refused_where_it_would_be_gone_at_once(write, capsys):
    pytest.importorskip("fsspec", reason="stores on URLs need fsspec")
    assert main(["run", write(STUDY), "--store", "memory://here"]) == 2
    assert "memory://here would be gone when this command ends" in capsys.readouterr().err


def test_a_relative_import_says_how_else_to_import(write, refused):
    assert "import a neighbour without the dots" in refused("plan", write("from .base import study\n"))


@pytest.mark.parametrize("count", ["x", "0", "-1", "1.5"])
def test_a_number_of_devices_that_is_none_is_named(count, capsys):
    with pytest.raises(SystemExit):
        main(["run", "study.py", f"--devices={count}"])
    assert f"argument --devices: '{count}' is not a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("buffered", ["", "1"])
def test_standard_output_that_takes_no_more_is_named(trained, buffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "windtunnel", "runs", "--store", str(trained / "store")],
            stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )  # fmt: skip
    assert done.returncode == 4 and done.stderr.startswith("windtunnel: standard output: No space left on device;")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(trained):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "windtunnel", "runs", "--store", str(trained / "store")]
    with open(writing, "wb") as left:
        buffered = os.environ | {"PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=left, stderr=subprocess.PIPE, text=True, env=buffered)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_in_a_folder_whose_name_is_no_text_names_it_byte_by_byte(trained, tmp_path):
    store = os.fsencode(tmp_path) + b"/caf\xe9"
    shutil.copytree(trained / "store", os.fsdecode(store))
    done = subprocess.run(
        [sys.executable, "-m", "windtunnel", "report", trained / "trained_study.py", "--store", store],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip().startswith(store + b"/")


# the other exit codes


def test_a_forecast_that_fails_its_backtest_ends_with_three(trained, monkeypatch, capsys):
    from windtunnel.study import question

    true_run = question.Study.run

    def run(self, store, **options):
        result = true_run(self, store, **options)
        return replace(result, forecasts={n: replace(f, reliable=False) for n, f in result.forecasts.items()})

    monkeypatch.setattr(question.Study, "run", run)
    assert main(["run", str(trained / "trained_study.py"), "--store", str(trained / "store")]) == 3
    out = capsys.readouterr().out
    assert "caveat: base: " in out and out.index("caveat:") < out.index("base: loss at")


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(write, tmp_path, monkeypatch, capsys):
    from windtunnel.study import question

    def interrupted(self, store, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(question.Study, "run", interrupted)
    assert main(["run", write(STUDY), "--store", str(tmp_path / "store")]) == 130
    out, err = capsys.readouterr()
    assert out == "" and "the same command goes on from here" in err


def test_our_own_bug_ends_with_one_and_asks_for_a_report(write, tmp_path, monkeypatch, capsys):
    from windtunnel.study import question

    monkeypatch.setattr(question.Study, "run", lambda self, store, **options: 1 / 0)
    assert main(["run", write(STUDY), "--store", str(tmp_path / "store")]) == 1
    assert "this is a bug in windtunnel" in capsys.readouterr().err


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "windtunnel", "runs", "--store", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("windtunnel: There is no store at")


def test_the_commands_of_this_file_are_those_of_the_folder(tmp_path):
    verbs = {p.stem for p in Path(sys.modules["windtunnel.cli"].__file__).parent.glob("*.py")}
    assert verbs - {
        "__init__",
        "about",
        "completion",
        "machine",
        "shared",
        "mistakes",
        "live",
        "progress",
        "check_setup",
        "follow",
        "followed",
        "watched",
        "meta",
    } == set(VERBS)
