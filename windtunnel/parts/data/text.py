"""Text as a data plan: windows over the concatenated documents, in an order that is a function of (seed, step).

What identifies the data is its content: documents, tokenizer, validation share and context, never a path. The files are
read once a process to know that, and the tokens come from a cache. Documents share windows, divided by the separator.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.altered import Subset, limited
from windtunnel.parts.data.corpus import Files, Source, StandardLibrary
from windtunnel.parts.data.order import VERSION, check_first_pass, draw, spread
from windtunnel.parts.data.shards import Bytes, Shards, Tokenizer, prepared
from windtunnel.places import default_cache
from windtunnel.recipe import DataShape

_BYTES = Bytes()
_FEWEST_WINDOWS = 8  # below this a corpus is a mistake, not a small one (guess)


@dataclass(frozen=True)
class Text:
    """A DataPlan over any source of documents; see `text` for what the fields mean."""

    source: Source
    context: int = 128
    tokenizer: Tokenizer = _BYTES
    validation: float = 0.05
    repeat: bool = False
    cache: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.context, int) or self.context < 1:
            raise InputError(f"context is {self.context!r}; it is the tokens in one example, a whole number from 1.")
        if not 0 < self.validation < 1:
            raise InputError(
                f"validation is {self.validation!r}; it is the share of documents held out for judging, so it must lie "
                f"between 0 and 1."
            )

    def shape(self) -> DataShape:
        """Vocabulary, context and unique training tokens."""
        return DataShape(
            classes=self.shards().vocabulary,
            tokens_per_example=self.context,
            train_tokens=self._examples("train") * self.context,
            example_shape=(self.context,),
        )

    def fingerprint(self) -> str:
        """Hash of the documents and of how they are cut and ordered."""
        asked = f"text {self.shards().key} context {self.context} order {VERSION}"
        return hashlib.sha256(asked.encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (size, context), int64; a pure function of (seed, step, size)."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def examples(self) -> int:
        """How many windows the training text has."""
        return self._examples("train")

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of training windows by their numbers."""
        return self._windows("train", indices)

    def limited(self, unique_tokens: int) -> Subset:
        """So many of the training tokens, drawn once and seen again and again; a smaller cut lies in a larger one."""
        return limited(self, unique_tokens)

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Which windows of the training text a batch holds."""
        check_first_pass(self, count=self.examples(), step=step, size=size)
        return draw(self.examples(), seed=seed, step=step, size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of up to `size` validation examples, at most `tokens` tokens in all but at least one example.

        The examples are spread evenly over the validation documents. The last batch may be smaller.
        """
        chosen = spread(self._examples("validation"), tokens // self.context)
        for start in range(0, len(chosen), size):
            yield self._windows("validation", chosen[start : start + size])

    def shards(self) -> Shards:
        """The tokens on disk, built if need be; raises InputError if they are too few to train and judge."""
        shards = prepared(self.source, self.tokenizer, self.validation, self.cache or str(default_cache()))
        if not shards.train_documents + shards.validation_documents:
            raise InputError(f"{self.source} holds no text: every document is blank. Give files with text in them.")
        if not shards.validation_documents:
            raise InputError(
                f"None of the {shards.train_documents} documents in {self.source} falls into the validation share of "
                f"{self.validation:g}; raise validation=..., or give more documents."
            )
        needed = {"train": _FEWEST_WINDOWS, "validation": 1}
        for side, least in needed.items():
            there = len(shards.tokens(side))
            if there < least * (self.context + 1):
                raise InputError(
                    f"{self.source} is too short: its {side} documents hold {there:,} tokens, and {least} example(s) "
                    f"with context={self.context} need {least * (self.context + 1):,}. Give more text or lower context."
                )
        return shards

    def _examples(self, side: str) -> int:
        return len(self.shards().tokens(side)) // (self.context + 1)

    def _windows(self, side: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows of context + 1 tokens that do not overlap; the targets are the inputs shifted by one."""
        length = self.context + 1
        places = indices[:, None] * length + np.arange(length)
        windows = self.shards().tokens(side)[places].astype(np.int64)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def text(
    patterns: str | os.PathLike[str] | list[str] | tuple[str, ...] | None = None,
    *,
    context: int = 128,
    tokenizer: Any = None,
    validation: float = 0.05,
    repeat: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Text:
    """Text files as data: a file, a folder, a glob or several of them; None is the standard library's source.

    A file is a document; a lone file, or one above 1 MiB, is cut at blank lines into documents of roughly 4 to 16 kB.
    `validation` is the share of documents held out. `tokenizer`: None is bytes, a path is a tokenizer.json (extra
    `hf`), anything else has the methods of `Tokenizer`. `repeat` allows more than one pass over the training text;
    by default that is refused, because repeated tokens are worth less than new ones. `cache`: None is
    `$WINDTUNNEL_CACHE` or `~/.cache/windtunnel`.
    """
    return Text(
        source=StandardLibrary() if patterns is None else Files(_absolute(patterns)),
        context=context,
        tokenizer=as_tokenizer(tokenizer),
        validation=validation,
        repeat=repeat,
        cache=None if cache is None else os.path.abspath(cache),
    )


def stdlib(**options: Any) -> Text:
    """The running Python's standard library as text: real text on every machine. Options as for `text`."""
    return text(None, **options)


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """Bytes for None, the tokenizer.json of a path, or the tokenizer itself."""
    if tokenizer is None:
        return _BYTES
    if isinstance(tokenizer, str | os.PathLike):
        from windtunnel.parts.data.huggingface import TokenizerFile

        return TokenizerFile(os.path.abspath(tokenizer))
    return tokenizer


def _absolute(patterns: Any) -> tuple[str, ...]:
    """Absolute patterns, so that a worker with another working folder reads the same files."""
    several = [patterns] if isinstance(patterns, str | os.PathLike) else list(patterns)
    if not several:
        raise InputError("The list of text files is empty; give at least one file, folder or glob.")
    return tuple(os.path.abspath(Path(pattern).expanduser()) for pattern in several)
