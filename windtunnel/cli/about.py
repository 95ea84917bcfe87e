"""What `windtunnel --version` prints: our version, then what it runs on.

The first line is for scripts. Nothing is imported to say the rest: torch alone would take seconds, so versions come
from the installed packages' metadata, and torch's build from the text of its own torch/version.py.
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "scipy", "torch")
BUILDS = {"cuda": "CUDA", "hip": "ROCm", "xpu": "XPU"}  # names in torch/version.py -> what people call them


class Version(argparse.Action):
    """The flag --version: print the text and leave with code 0."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and leave."""
        print(in_words())
        parser.exit()


def in_words() -> str:
    """Our version on the first line, the environment on the others."""
    found = environment()
    libraries = ", ".join(f"{name} {found[name]}" for name in LIBRARIES)
    return f"windtunnel {found['windtunnel']}\nPython {found['python']}, {found['os']}\n{libraries}"


def environment() -> dict[str, str]:
    """Versions by name: windtunnel, python, os, numpy, scipy, torch (with its build)."""
    from windtunnel import __version__

    python = f"{platform.python_version()} ({platform.python_implementation()})"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"windtunnel": __version__, "python": python, "os": system} | {name: installed(name) for name in LIBRARIES}


def installed(name: str) -> str:
    """A package's version, for torch with the device it was built for; "not installed" where there is none."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return "not installed"
    return f"{found} ({torch_build()})" if name == "torch" else found


def torch_build() -> str:
    """What the installed torch was built for: "CUDA 12.8", "ROCm 6.3", "CPU", or "build unknown"."""
    file = Path(str(distribution("torch").locate_file("torch/version.py")))
    try:
        said = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return "build unknown"
    return build_of(said)


def build_of(said: str) -> str:
    """The build that the text of a torch/version.py states."""
    for name, called in BUILDS.items():
        stated = re.search(rf"^{name}(?::[^=\n]*)? = ['\"]([\w.+-]+)['\"]", said, re.MULTILINE)
        if stated:
            return f"{called} {stated[1]}"
    return "CPU"
