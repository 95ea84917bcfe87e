"""Images of your own from one .npz file of arrays, as a data plan: inputs and labels, a part of each class held out.

Nothing in the file is code: arrays of objects are refused. A newcomer would keep the arrays in the plan; a plan is
frozen and travels to workers, so it holds the path, and the fingerprint holds what is in it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.altered import Subset, limited
from windtunnel.parts.data.order import VERSION, check_first_pass, draw, spread
from windtunnel.recipe import DataShape

MOST_BYTES = 1 << 33  # of one unpacked array
LARGEST_PIXEL = 255  # whole numbers are taken as pixels of 8 bits
COLOURS = (1, 3, 4)  # channels of grey, RGB and RGBA images


@dataclass(frozen=True)
class Images:
    """A DataPlan of images; see `images`."""

    path: str
    inputs: str = "images"
    labels: str = "labels"
    share: float = 0.1
    repeat: bool = True

    def shape(self) -> DataShape:
        """As many classes as the largest label says; one prediction an image."""
        images, labels = self._loaded()
        count = self.examples()
        return DataShape(
            classes=int(labels.max()) + 1, tokens_per_example=1, train_tokens=count, example_shape=images.shape[1:]
        )

    def fingerprint(self) -> str:
        """Hash of the images, their labels, the split and the order."""
        images, labels = self._loaded()
        whole = hashlib.sha256(f"images {images.shape} {images.dtype} share {self.share} order {VERSION}\n".encode())
        whole.update(np.ascontiguousarray(images).tobytes() + labels.tobytes())
        return whole.hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (size, channels, rows, columns), float32, and labels (size, 1), int64."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def examples(self) -> int:
        """How many training images there are."""
        return len(self._split()[0])

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels by their numbers."""
        return self._taken(self._split()[0][indices])

    def limited(self, unique_tokens: int) -> Subset:
        """So many of the training tokens, drawn once and seen again and again; a smaller cut lies in a larger one."""
        return limited(self, unique_tokens)

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Which training images, counted from 0, a batch holds."""
        check_first_pass(self, count=self.examples(), step=step, size=size)
        return draw(self.examples(), seed=seed, step=step, size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of up to `size` validation images, `tokens` in all or as many as there are."""
        validation = self._split()[1]
        chosen = validation[spread(len(validation), tokens)]
        for start in range(0, len(chosen), size):
            yield self._taken(chosen[start : start + size])

    def _loaded(self) -> tuple[np.ndarray, np.ndarray]:
        return _read(self.path, self.inputs, self.labels)

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        return _divided(self.path, self.inputs, self.labels, self.share)

    def _taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._loaded()
        chosen = images[indices]
        by = 1.0 / LARGEST_PIXEL if np.issubdtype(images.dtype, np.integer) else 1.0
        return chosen.astype(np.float32) * np.float32(by), labels[indices]


def images(
    path: str, *, inputs: str = "images", labels: str = "labels", held_out: float = 0.1, repeat: bool = True
) -> Images:
    """Images and whole-number labels of one .npz file, by the names of its arrays.

    Images are (count, rows, columns) or (count, channels, rows, columns); whole numbers, 0 to 255, are divided by 255,
    and booleans are 0 and 1. In each class the share `held_out` with the smallest hashes is never trained on, so equal
    images are on one side. Passes repeat by default. Raises InputError for a file without these arrays, of other shapes
    or values, or too few images.
    """
    if not 0 < held_out < 1:
        raise InputError(f"images(held_out={held_out}): it is a share of each class between 0 and 1.")
    plan = Images(str(path), inputs, labels, held_out, repeat)
    plan._split()
    return plan


@cache
def _read(path: str, inputs: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            _check_names(path, held.files, inputs, labels)
            _check_bytes(path, inputs)
            x, y = held[inputs], held[labels]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give an .npz file, as numpy.savez writes it.") from None
    except (ValueError, zipfile.BadZipFile, AttributeError, TypeError):  # the last of a plain .npy
        raise InputError(
            f"{path} is not an .npz file of plain arrays of numbers; write one as numpy.savez({Path(path).stem!r}, "
            f"{inputs}=..., {labels}=...) does, labels as whole numbers."
        ) from None
    if not y.size or not x.size:
        raise InputError(f"{path}: {inputs} has shape {x.shape} and {labels} {y.shape}: there is no image in it.")
    y = y.reshape(len(y) if y.ndim else 1, -1)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or len(x) != len(y) or y.shape[1] != 1 or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise InputError(
            f"{path}: {inputs} has shape {x.shape} and {labels} {y.shape} of {y.dtype}; images are (count, rows, "
            f"columns) or (count, channels, rows, columns), labels one whole number from 0 for each."
        )
    _check_values(path, inputs, x)
    return x, y.astype(np.int64)


def _check_names(path: str, there: list[str], inputs: str, labels: str) -> None:
    """Raise InputError where a file has not the arrays of these names, with how to say which of its own they are."""
    missing = [name for name in (inputs, labels) if name not in there]
    if missing:
        raise InputError(
            f"{path} has the arrays {', '.join(there) or 'of no name'}, and not {', '.join(missing)}. Say which are "
            f'which: wt.data.images(path, inputs="x", labels="y") for arrays x and y.'
        )


def _check_values(path: str, inputs: str, x: np.ndarray) -> None:
    """Raise InputError where the channels come last, or values are none that `images` takes."""
    if x.shape[-1] in COLOURS and min(x.shape[1:3]) > max(COLOURS):
        raise InputError(
            f"{path}: {inputs} has shape {x.shape}, as if its channels came last; they come before rows and columns: "
            f"save {inputs}.transpose(0, 3, 1, 2). If the last axis is columns indeed, swap rows and columns."
        )
    if x.dtype == bool:
        return
    if not (np.issubdtype(x.dtype, np.number) and np.isrealobj(x) and np.isfinite(x).all()):
        raise InputError(f"{path}: {inputs} holds values that are no finite numbers.")
    if np.issubdtype(x.dtype, np.integer) and not 0 <= x.min() <= x.max() <= LARGEST_PIXEL:
        raise InputError(
            f"{path}: {inputs} holds whole numbers from {x.min()} to {x.max()}, and pixels are taken as 0 to "
            f"{LARGEST_PIXEL}. Save floats as the network is to see them; of 16 bits, {inputs} / 65535."
        )


def _check_bytes(path: str, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(f"{name}.npy").file_size
    if size > MOST_BYTES:
        raise InputError(f"{path}: {name} takes {size / 2**30:.0f} GiB; it is read whole, so 8 GiB are the most.")


@cache
def _divided(path: str, inputs: str, labels: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training and of the validation images."""
    x, y = _read(path, inputs, labels)
    hashes = np.array([hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in x])
    held = np.zeros(len(x), dtype=bool)
    for label in np.unique(y):
        members = np.flatnonzero(y[:, 0] == label)
        distinct = np.unique(hashes[members])
        held[members[np.isin(hashes[members], distinct[: round(len(distinct) * share)])]] = True
    if not held.any() or held.all():
        raise InputError(f"{path} has {len(x)} images, too few to hold out a share of {share} of each class.")
    return np.flatnonzero(~held), np.flatnonzero(held)
