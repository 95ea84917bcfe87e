"""The cache of rows tells what the records tell, lies outside the store, and may vanish or be damaged at any time."""

from __future__ import annotations

import json
import random

import pytest
from test_store import files, run

from windtunnel import index
from windtunnel.errors import InputError
from windtunnel.records import row
from windtunnel.store import Store

DAMAGES = 400


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Twelve runs, which here are many."""
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH", 3)
    store = Store(tmp_path / "store")
    for seed in range(12):
        store.add(run(seed))
    return store


def truth(store):
    return [row(record) for record in store.records()]


def cached(tmp_path):
    (file,) = (tmp_path / "cache" / "index").iterdir()
    return file


def test_rows_are_those_of_the_records_with_and_without_the_cache(many, tmp_path):
    before = files(many.path)
    assert many.rows() == truth(many) and many.rows() == truth(many)
    assert cached(tmp_path).stat().st_size > 1000 and files(many.path) == before
    many.add(run(99))
    assert many.rows() == truth(many) and len(many.rows()) == 13


def test_rows_really_come_from_the_cache(many, monkeypatch):
    first = many.rows()
    monkeypatch.setattr(index, "read_record", None)
    assert many.rows() == first


@pytest.mark.parametrize("text", ["", "{}", "windtunnel index 1 0\n{}", "\x00", "[" * 100_000])
def test_a_damaged_cache_is_made_anew(many, tmp_path, text):
    first = many.rows()
    good = cached(tmp_path).read_text()
    cached(tmp_path).write_text(text)
    assert many.rows() == first and cached(tmp_path).read_text() == good
    cached(tmp_path).write_text(good.replace("2.5", "1.5"))
    assert many.rows() == first
    cached(tmp_path).unlink()
    assert many.rows() == first


def test_a_record_that_changed_is_read_again_and_found_damaged(many):
    many.rows()
    path = many.path / "runs" / run(3).key / "run.json"
    path.write_text(path.read_text().replace('"loss": 2.5', '"loss": 1.5'))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        many.rows()


def test_a_removed_record_is_no_longer_listed(many):
    many.rows()
    many.place.remove(f"runs/{run(3).key}")
    assert len(many.rows()) == 11 and run(3).key not in json.dumps(many.rows())


def test_a_cache_that_cannot_be_written_is_done_without(many, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert many.rows() == truth(many)


def test_hundreds_of_random_damages_change_no_row_and_the_cache_is_rebuilt_to_the_byte(many, tmp_path):
    first = many.rows()
    good, draw, rebuilt = cached(tmp_path).read_bytes(), random.Random(0), 0
    for _ in range(DAMAGES):
        cached(tmp_path).write_bytes(damaged(good, draw))
        assert many.rows() == first == truth(many)
        rebuilt += cached(tmp_path).read_bytes() == good
    assert rebuilt == DAMAGES


def damaged(good: bytes, draw: random.Random) -> bytes:
    """A bit flipped, a piece cut out, doubled, moved or zeroed, or the end missing: never the same bytes."""
    a, b = sorted(draw.sample(range(len(good)), 2))
    flipped = good[:a] + bytes([good[a] ^ (1 << draw.randrange(8))]) + good[a + 1 :]
    ways = [
        flipped,
        good[:a],
        good[:a] + good[b:],
        good[:b] + good[a:],
        good[b:] + good[:b],
        good[:a] + bytes(b - a) + good[b:],
    ]
    found = draw.choice(ways)
    return found if found != good else flipped
