"""What the command says of itself and of the machine, and the completion scripts as shells use them."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import windtunnel as wt
from windtunnel.cli import VERBS, about, completion, machine, main, parser

TOP = {"-h", "--help", "--version", "--print-completion"}  # frozen, as the verbs' flags are in test_cli.py
SOUND = machine.Machine(
    versions={"python": "3.12.1 (CPython)", "torch": "2.13.0 (CUDA 13.0)"}, missing=(), devices=("H200 (150 GB)",),
    trouble="", cores=16, quota=None, memory=10**11, store="runs", disk=10**12, writable=True,
)  # fmt: skip


def test_the_flags_before_a_verb_are_the_frozen_ones():
    assert {flag for action in parser()._actions for flag in action.option_strings} == TOP


def test_the_machine_says_what_bfloat16_gains_where_it_gains():
    said = [str(replace(SOUND, bfloat16=gain)) for gain in (None, 0.4, 1.1, 4.44)]
    assert ["bfloat16" in each for each in said] == [False, False, False, True]
    assert "matrix products 4.4 times as fast in bfloat16 (--precision)" in said[-1]
    assert machine.look("runs").bfloat16 > 0


# the version


def test_version_says_first_ours_and_then_what_it_runs_on(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    out, err = capsys.readouterr()
    assert left.value.code == 0 and err == ""
    first, *others = out.splitlines()
    assert first == f"windtunnel {wt.__version__}"
    assert ".".join(map(str, sys.version_info[:3])) in others[0]
    assert all(re.search(rf"\b{name} \S+", others[1]) for name in ("numpy", "scipy", "torch"))


def test_version_imports_no_library():
    program = (
        "import sys\nfrom windtunnel.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "windtunnel" in loaded and not loaded & {"torch", "numpy", "scipy", "pandas", "shtab", "rich"}


def test_a_library_that_is_not_installed_is_said_to_be_missing():
    assert about.installed("no-such-library-of-ours") == "not installed"


@pytest.mark.parametrize(
    "said,expected",
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "CUDA 12.8"),
        ("cuda = '11.8'\n", "CUDA 11.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.3.42134'\n", "ROCm 6.3.42134"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", "CPU"),
    ],
)
def test_torchs_build_is_read_from_what_it_says_of_itself(said, expected):
    assert about.build_of(said) == expected


def test_the_build_that_is_read_is_the_build_that_torch_names():
    torch = pytest.importorskip("torch")
    assert about.torch_build() == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU")


# the machine


def test_check_without_a_file_says_what_machine_this_is(capsys, tmp_path):
    assert main(["check", "--store", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("machine: Python ") and str(tmp_path / "store") in out
    assert not (tmp_path / "store").exists()


def test_check_as_json_is_one_object_with_the_machine_and_its_warnings(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "free_bytes", lambda where: 5_000_000)
    assert main(["check", "--store", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["machine"]
    assert said["disk"] == 5_000_000 and said["cores"] >= 1 and said["versions"]["windtunnel"] == wt.__version__
    assert any(warning.startswith("5 MB free at ") for warning in said["warnings"])


def test_a_machine_that_lacks_nothing_is_warned_of_nothing():
    assert list(machine.warned(SOUND)) == []
    assert str(SOUND) == (
        "Python 3.12.1, torch 2.13.0 (CUDA 13.0), H200 (150 GB), 16 cores, 100 GB of memory, 1e+03 GB free at runs"
    )


@pytest.mark.parametrize(
    "lacks,expected",
    [
        ({"missing": ("safetensors",)}, "safetensors missing: nothing can be trained here"),
        ({"trouble": "torch is installed and cannot be imported: libcudart"}, "cannot be imported: libcudart"),
        ({"devices": (), "cores": 1}, "one core: packs are trained one after another"),
        ({"devices": (), "quota": 2.5}, "16 cores are seen and 2.5 may be used: give --devices 2"),
        ({"devices": (), "quota": 0.5}, "one core"),
        ({"memory": 10**9}, "1 GB of memory"),
        ({"disk": 10**8}, "100 MB free at runs"),
        ({"writable": False}, "runs cannot be written"),
    ],
)
def test_each_thing_that_will_hurt_is_one_warning(lacks, expected):
    (warning,) = machine.warned(replace(SOUND, **lacks))
    assert expected in warning


def test_a_torch_that_cannot_be_imported_is_a_warning(monkeypatch, tmp_path):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    found = machine.look(str(tmp_path))
    assert found.devices == () and any("libtorch_cpu.so" in warning for warning in machine.warned(found))


def test_what_torch_says_of_a_broken_driver_is_kept(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")

    def unavailable() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    assert machine.look(str(tmp_path)).trouble == "CUDA initialization: The NVIDIA driver on your system is too old"


def test_a_folder_that_may_not_be_written_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.os, "access", lambda path, mode: Path(path) != tmp_path)
    assert not machine.look(str(tmp_path / "not" / "there")).writable


def test_a_hostile_name_of_a_store_cannot_steer_the_terminal(capsys, tmp_path):
    assert main(["check", "--store", f"{tmp_path}/\x1b[31mred\u202e"]) == 0
    assert not set(capsys.readouterr().out) & {"\x1b", "\u202e"}


# completion


@pytest.mark.parametrize("shell", ["bsh", "", "\x1b[31m", "<script>", "x" * 10_000, "bash; rm -rf ~"])
def test_an_unknown_shell_is_refused_in_one_sentence(shell, capsys):
    assert main(["--print-completion", shell]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 250 and "\x1b" not in err
    assert err.startswith("windtunnel: --print-completion was given ") and "bash, zsh, fish" in err


def test_a_misspelt_shell_is_told_the_nearest(capsys):
    assert main(["--print-completion", "zhs"]) == 2
    assert "Did you mean zsh?" in capsys.readouterr().err


def test_without_shtab_the_flag_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """A folder with completion.bash, completion.zsh and completion.fish."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        (folder / f"completion.{shell}").write_text(completion.script(shell))
    return folder


def test_every_verb_and_every_flag_is_in_every_script(scripts):
    verbs = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    flags = {flag for sub in verbs.values() for a in sub._actions for flag in a.option_strings if flag[:2] == "--"}
    for shell in ("bash", "zsh", "fish"):
        text = (scripts / f"completion.{shell}").read_text()
        assert all(verb in text for verb in VERBS)
        assert not [flag for flag in flags if not re.search(rf"(--|-l ){flag[2:]}\b", text)]


DRIVE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_shtab_windtunnel
printf '%s\\n' "${COMPREPLY[@]}"
"""
TABS = [
    (["ch"], {"check"}),
    (["plan", "--dev"], {"--devices"}),
    (["plan", "--on", "t"], {"torchrun"}),
    (["run", "stu"], {"study.py"}),
    (["run", "study.py", "--store", "sto"], {"store"}),
    (["--print-completion", "z"], {"zsh"}),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a study and a store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").touch()
    (tmp_path / "store").mkdir()


@pytest.mark.parametrize("typed,expected", TABS)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(scripts, here, typed, expected):
    asked = ["bash", "--norc", "-c", DRIVE, "bash", str(scripts / "completion.bash"), "windtunnel", *typed]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("typed,expected", TABS)
@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(scripts, here, typed, expected):
    program = f"source {scripts / 'completion.fish'}; complete -C 'windtunnel {' '.join(typed)}'"
    done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, check=True)
    assert {line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()} == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_the_script(scripts):
    done = subprocess.run(["zsh", "-n", str(scripts / "completion.zsh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
