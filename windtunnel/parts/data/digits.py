"""scikit-learn's handwritten digits as a data plan: 1797 images of 8 x 8, ten classes, no download.

An example is one prediction, so tokens count examples. Pixels are scaled from 0..16 to [0, 1] and not centred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.altered import Subset, limited
from windtunnel.parts.data.order import VERSION, check_first_pass, draw, spread
from windtunnel.recipe import DataShape

_VALIDATION = 0.2


@dataclass(frozen=True)
class Digits:
    """A DataPlan of images; see `digits`."""

    repeat: bool = True

    def shape(self) -> DataShape:
        """Ten classes, one prediction an image."""
        return DataShape(classes=10, tokens_per_example=1, train_tokens=len(_split()["train"]), example_shape=(1, 8, 8))

    def fingerprint(self) -> str:
        """Hash of the images, their labels, the split and the order."""
        images, labels = _loaded()
        whole = hashlib.sha256(f"digits validation {_VALIDATION} order {VERSION}\n".encode())
        whole.update(images.tobytes() + labels.tobytes())
        return whole.hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (size, 1, 8, 8), float32, and labels (size, 1), int64; a pure function of (seed, step, size)."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def examples(self) -> int:
        """How many training images there are."""
        return len(_split()["train"])

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels by their numbers."""
        return _taken(_split()["train"][indices])

    def limited(self, unique_tokens: int) -> Subset:
        """So many of the training tokens, drawn once and seen again and again; a smaller cut lies in a larger one."""
        return limited(self, unique_tokens)

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Which training images, counted from 0, a batch holds."""
        check_first_pass(self, count=self.examples(), step=step, size=size)
        return draw(self.examples(), seed=seed, step=step, size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of up to `size` validation images, `tokens` in all or as many as there are."""
        validation = _split()["validation"]
        chosen = validation[spread(len(validation), tokens)]
        for start in range(0, len(chosen), size):
            yield _taken(chosen[start : start + size])


def digits(*, repeat: bool = True) -> Digits:
    """Handwritten digits, 1438 to train on and 359 held out, the same share of every class.

    Passes repeat by default (`repeat=True`): there are few images, and many passes are how such data is used.
    """
    return Digits(repeat=repeat)


@cache
def _loaded() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "The digits come with scikit-learn, which is not installed; run: pip install 'windtunnel[train]'"
        ) from None
    bunch: Any = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    return images, bunch.target.astype(np.int64)[:, None]


@cache
def _split() -> dict[str, np.ndarray]:
    """Indices of the two sides: in each class, the fifth of the images with the smallest hashes is held out."""
    images, labels = _loaded()
    hashes = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images])
    held = np.zeros(len(images), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels[:, 0] == digit)
        order = members[np.argsort(hashes[members])]
        held[order[: round(len(order) * _VALIDATION)]] = True
    return {"train": np.flatnonzero(~held), "validation": np.flatnonzero(held)}


def _taken(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _loaded()
    return images[indices], labels[indices]
