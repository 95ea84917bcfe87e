"""Every misspelt name is refused in one sentence that names the nearest known one: flags, slots, fields, arguments."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import random
import sys

import pytest
import tiny

import windtunnel as wt
from windtunnel.cli import VERBS, main, parser
from windtunnel.errors import InputError
from windtunnel.parts import optimizers, schedules

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typos(name: str, known: set[str], draw: random.Random) -> list[str]:
    """A letter left out, doubled, swapped with the next, changed; none of them a name that there is."""
    found = set()
    for _ in range(4):
        at = draw.randrange(len(name))
        found |= {
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + draw.choice(LETTERS) + name[at + 1 :],
        }
        if at + 1 < len(name):
            found.add(name[:at] + name[at + 1] + name[at] + name[at + 2 :])
    return sorted(typo for typo in found - known if typo.isidentifier() and not typo.startswith("_"))


def flags(verb: str) -> set[str]:
    top = parser([verb])
    sub = next(a for a in top._actions if hasattr(a, "choices") and a.choices).choices[verb]
    return {flag.removeprefix("--") for action in sub._actions for flag in action.option_strings if flag[:2] == "--"}


def said_by(*arguments: str) -> str:
    import io

    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return heard.getvalue().splitlines()[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_misspelt_flag_is_refused_with_the_nearest(verb):
    known, draw, asked = flags(verb), random.Random(0), 0
    for flag in sorted(known):
        plain = flag.replace("-", "_")
        for typo in typos(plain, {k.replace("-", "_") for k in known}, draw):
            said = said_by(verb, *(["x"] * (verb != "runs")), "--" + typo.replace("_", "-"))
            assert f"{verb} knows no --{typo.replace('_', '-')}." in said
            assert "Did you mean --" in said or len(typo) < 3
            asked += f"--{flag}?" in said
    assert asked > 3


def test_an_abbreviated_flag_is_not_taken_for_it():
    assert said_by("run", "x.py", "--devic", "2").endswith("Did you mean --devices?")


@pytest.mark.parametrize("verb", VERBS)
def test_a_misspelt_verb_or_place_is_refused_with_the_nearest(verb):
    for typo in typos(verb, set(VERBS), random.Random(1)):
        assert "Did you mean" in said_by(typo, "x.py")
    assert said_by("run", "x.py", "--on", "torchrnu").endswith("Did you mean torchrun?")


def test_a_misspelt_slot_is_refused_with_the_nearest(corpus):
    base, draw, asked = tiny.recipe(corpus), random.Random(2), 0
    slots = {f.name for f in dataclasses.fields(base)}
    for slot in sorted(slots):
        for typo in typos(slot, slots, draw):
            with pytest.raises(InputError, match=rf"has no slot {typo}\. Did you mean {slot}\?"):
                base.but(**{typo: None})
            asked += 1
    assert asked > 60


CALLS = {
    "wt.Study": wt.Study, "wt.Target": wt.Target, "wt.Rung": wt.Rung, "wt.Tuning": wt.Tuning, "wt.Judge": wt.Judge,
    "wt.Ladder": wt.Ladder, "wt.Ladder.widths": wt.Ladder.widths, "wt.data.text": wt.data.text,
    "AdamW": optimizers.AdamW, "optimizers.Lion": optimizers.Lion, "schedules.WSD": schedules.WSD,
}  # fmt: skip


@pytest.mark.parametrize("called", CALLS)
def test_a_misspelt_argument_in_a_study_file_is_refused_with_the_nearest(called, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    names, draw, asked = set(inspect.signature(CALLS[called]).parameters), random.Random(3), 0
    for name in sorted(n for n in names if len(n) > 1):
        for typo in typos(name, names, draw)[:6]:
            said = _refused(tmp_path, capsys, f"study = {called}(\n    {typo}=1)\n")
            assert f"unexpected keyword argument '{typo}'" in said and "at line 4" in said
            assert "Did you mean " in said.rpartition(")")[2]
            asked += said.rstrip().endswith(f"Did you mean {name}?")
    assert asked >= 3


@pytest.mark.parametrize(
    "line, meant",
    [
        ("study = wt.Studdy(name='x')", "Study"),
        ("study = wt.Ladder.width((1, 2))", "widths"),
        ("from windtunnel.parts.optimizers import Adamw", "AdamW"),
        ("study = Adam(lr=1)", "AdamW"),
        ("study = wt.recipes.transformer_mup_adam()", "transformer_mup_adamw"),
        ("study = (lambda widths: widths)(width=3)", None),
        ("study = AdamW(**{'weight_deca': 1})", "weight_decay"),
        ("study = wt.Ladder.widths((8, 12, 16), depth=1, epochs=2)", "tokens"),
        ("study = wt.Ladder.widths((8, 12, 16), depth=1, samples=200)", "tokens"),
    ],
)
def test_a_misspelt_name_in_a_study_file_is_refused_with_the_nearest(line, meant, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    said = _refused(tmp_path, capsys, line + "\n")
    assert meant is None or f"Did you mean {meant}?" in said


def _refused(folder, capsys, line: str) -> str:
    file = folder / "misspelt_study.py"
    file.write_text("import windtunnel as wt\nfrom windtunnel.parts import optimizers, schedules\n"
                    f"from windtunnel.parts.optimizers import AdamW\n{line}")  # fmt: skip
    sys.modules.pop("misspelt_study", None)
    assert main(["plan", str(file), "--store", str(folder / "store")]) == 2
    sys.modules.pop("misspelt_study", None)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    "slot,part,reason",
    [
        ("schedule", "cosine", r"\(tokens, horizon\) -> share"),
        ("schedule", schedules.WSD, r"\(tokens, horizon\) -> share"),
        ("optimizer", optimizers.AdamW, "AdamW is a class; .* torch's optimizers do not fill it"),
        ("model", 3, r"has no build and no size; .*Own\(function\)"),
        ("transforms", [len], r"is no tuple; write transforms=\(one, another\)"),
        ("data", "corpus", "has no shape and no fingerprint"),
    ],
)
def test_what_does_not_fill_a_slot_is_refused_where_it_is_given(corpus, slot, part, reason):
    with pytest.raises(InputError, match=rf"^{slot}=.*{reason}"):
        tiny.recipe(corpus).but(**{slot: part})
