"""Images from an .npz file as a data plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.report.stored import stored_data
from windtunnel.train.loop import train


def written(place: Path, **changed: Any) -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.integers(0, 256, size=(60, 5, 4), dtype=np.uint8), "labels": np.arange(60) % 3,
    }  # fmt: skip
    np.savez(place / "images.npz", **{n: v for n, v in (arrays | changed).items() if v is not None})
    return str(place / "images.npz")


def test_images_are_pixels_between_0_and_1_and_the_same_for_the_same_seed_and_step(tmp_path: Path) -> None:
    plan = wt.data.images(written(tmp_path))
    x, y = plan.batch(seed=1, step=2, size=7)
    assert x.shape == (7, 1, 5, 4) and x.dtype == np.float32 and x.min() >= 0 and 0.5 < x.max() <= 1
    again = plan.batch(seed=1, step=2, size=7)
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])
    shape = plan.shape()
    assert (shape.classes, shape.train_tokens, shape.example_shape) == (3, 54, (1, 5, 4))


def test_what_is_held_out_is_never_trained_on_not_even_a_copy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(30, 3, 3), dtype=np.uint8)
    twice, labels = np.concatenate([images, images]), np.concatenate([np.arange(30) % 3] * 2)
    plan = wt.data.images(written(tmp_path, images=twice, labels=labels), held_out=0.3)
    held = np.concatenate([x for x, _ in plan.held_out(size=8, tokens=1000)])
    seen = np.concatenate([plan.batch(seed=0, step=s, size=6)[0] for s in range(20)])
    assert not {x.tobytes() for x in held} & {x.tobytes() for x in seen}
    assert len(held) + plan.shape().train_tokens == 60


def test_the_fingerprint_is_of_what_is_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = (wt.data.images(written(tmp_path / name)) for name in ("a", "b"))
    assert one.fingerprint() == other.fingerprint()
    (tmp_path / "c").mkdir()
    changed = wt.data.images(written(tmp_path / "c", labels=(np.arange(60) + 1) % 3))
    assert changed.fingerprint() != one.fingerprint() != wt.data.images(one.path, held_out=0.2).fingerprint()


def test_booleans_are_0_and_1(tmp_path: Path) -> None:
    plan = wt.data.images(written(tmp_path, images=np.random.default_rng(0).random((60, 5, 4)) < 0.5))
    assert set(np.unique(plan.batch(seed=0, step=0, size=20)[0])) == {0.0, 1.0}


@pytest.mark.parametrize("shape", [(60, 3, 5, 4), (60, 1, 9, 9), (60, 3, 3, 3), (60, 7, 1, 9)])
def test_channels_before_rows_and_columns_are_taken_as_they_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    assert wt.data.images(written(tmp_path, images=images)).shape().example_shape == shape[1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.zeros((60, 12, 12, 3))}, r"channels came last.*save images\.transpose\(0, 3, 1, 2\)"),
        ({"images": np.zeros((60, 8, 9, 1), np.uint8)}, "channels came last"),
        ({"images": np.full((60, 5, 4), 4080, np.uint16)}, "whole numbers from 4080 to 4080, and pixels .* 65535"),
        ({"images": np.full((60, 5, 4), -1)}, "whole numbers from -1 to -1"),
        ({"labels": None}, r"images\.npz has the arrays images, and not labels\. Say .* inputs=\"x\", labels=\"y\""),
        ({"images": np.zeros((0, 5, 4)), "labels": np.zeros(0, int)}, r"shape \(0, 5, 4\) .* no image in it"),
        ({"labels": np.int64(3)}, r"labels \(1, 1\) of int64; .* labels one whole number from 0 for each"),
        ({"labels": np.arange(60.0)}, "whole number"),
        ({"labels": np.arange(59)}, r"\(59, 1\)"),
        ({"images": np.full((60, 2, 2), np.nan)}, "no finite numbers"),
        ({"images": np.array([object()] * 60)}, "plain arrays"),
        ({"images": np.zeros((2, 2, 2)), "labels": np.arange(2)}, "too few"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path, **change)
    with pytest.raises(InputError, match=said):
        wt.data.images(path)


def test_no_file_a_spoiled_one_and_a_share_without_sense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spoiled.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "text.npz").write_text("label,pixel\n1,2\n")
    for path in ("/nowhere.npz", str(tmp_path / "spoiled.npz"), str(tmp_path / "text.npz")):
        with pytest.raises(InputError, match="npz") as refused:
            wt.data.images(path)
        assert "pickle" not in str(refused.value)
    with pytest.raises(InputError, match="between 0 and 1"):
        wt.data.images(written(tmp_path), held_out=1.0)


def test_a_loss_of_images_is_in_nats_per_example_in_a_study_and_in_its_records(tmp_path: Path) -> None:
    data, store = wt.data.images(written(tmp_path)), wt.Store(tmp_path / "store")
    assert wt.Judge(data=data).unit == "nats per example"
    pack = tiny.pack(wt.recipes.mlp_mup_sgd(data=data), [{"lr": 0.01}], rung=tiny.RUNG.but(tokens=32))
    (run,) = train(pack, device=tiny.CPU)
    store.add(run)
    assert stored_data(store, "test")["unit"] == "nats per example"


def test_a_loss_of_text_is_in_nats_per_token(corpus: Path) -> None:
    assert wt.Judge(data=tiny.text(corpus)).unit == "nats per token"


def test_a_file_of_one_array_is_told_what_is_needed(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((4, 3, 3)))
    with pytest.raises(wt.InputError, match=r"one\.npy is not an \.npz file"):
        wt.data.images(str(tmp_path / "one.npy"))
