"""`windtunnel check` on a file with a training loop of one's own."""

from __future__ import annotations

import json

import pytest

from windtunnel.cli import main

LOOP = """
import torch
from torch import nn
import windtunnel as wt
from windtunnel.scaling.rules import Standard

def build(width):
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))

def batches(seed, step):
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1000 * seed + step))
    return x, (x @ torch.linspace(-1, 1, 32).view(8, 4)).argmax(dim=1)

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

setup = wt.checks.Setup(build=build, base=32, optimizer=torch.optim.AdamW, loss=loss, batches=batches, lr=0.02{more})
"""


def written(tmp_path, name, more="", after="sizes = (32, 128)"):
    file = tmp_path / f"{name}.py"
    file.write_text(LOOP.replace("{more}", more) + after + "\n")
    return str(file)


def test_a_sound_loop_passes_and_is_told_what_was_not_asked(tmp_path, capsys):
    assert main(["check", written(tmp_path, "sound_loop")]) == 0
    said = capsys.readouterr().out
    assert "3 checks:" in said and "failed" not in said.splitlines()[-1] and "add steps = ..." in said


def test_with_steps_the_transfer_is_asked_too(tmp_path, capsys):
    file = written(tmp_path, "long_loop", more=", weight_decay=0.1", after="sizes = (32, 64)\nsteps = 8")
    main(["check", file, "--json"])
    assert {*json.loads(capsys.readouterr().out)["checks"]} == {
        "coordinates", "updates", "epsilon_floor", "decay_timescale", "wider_is_better", "transfer_check"
    }  # fmt: skip


def test_an_optimizer_without_an_epsilon_has_its_other_checks(tmp_path, capsys):
    file = tmp_path / "sgd_loop.py"
    file.write_text(LOOP.replace("{more}", "").replace("AdamW", "SGD") + "sizes = (32, 64)\nsteps = 8\n")
    main(["check", str(file)])
    said = capsys.readouterr().out
    assert "epsilon_floor: left out. SGD holds eps=None" in said and "paired seeds" in said
    assert said.splitlines()[-1].startswith("4 checks: ")
    main(["check", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["checks"]["epsilon_floor"]["why"].startswith("SGD holds eps=None")


def test_the_standard_parametrization_fails(tmp_path, capsys):
    file = written(tmp_path, "standard_loop", more=", rule=Standard()", after="sizes = (32, 128, 512)")
    assert main(["check", file]) == 2
    assert "failed" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "name, after, said",
    [("no_sizes", "", "a `setup` and no `sizes`"), ("no_steps", "sizes = (32, 64)\nsteps = 0", "has steps = 0; give")],
)
def test_what_is_missing_is_said(tmp_path, capsys, name, after, said):
    assert main(["check", written(tmp_path, name, after=after)]) == 2
    assert said in capsys.readouterr().err
