"""Figures as files: every one of the page, in every format, from hostile names too, and without a browser."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_report import HOSTILE, everything_replaced, example

from windtunnel.errors import InputError
from windtunnel.report import figures
from windtunnel.report.figures import COLUMNS, palette, panels, save, stylesheet, svg, table
from windtunnel.report.marks import Axis, Dots, Panel

NS = "{http://www.w3.org/2000/svg}"


def rows_of(panel: Panel) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table(panel).decode())))


def test_every_figure_of_the_page_becomes_files_of_every_kind(tmp_path: Path):
    written = save(example(), tmp_path / "new" / "figures")
    names = {path.stem for path in written}
    kinds = {name.split("-")[0] for name in names}
    assert kinds == {"loss", "difference", "basin", "coordinates"} and len(names) == 1 + 1 + 2 + 6
    endings = {path.suffix for path in written}
    assert {".svg", ".csv"} <= endings and len(written) == len(names) * len(endings)
    assert all(path.stat().st_size > 100 for path in written)


def test_a_png_is_a_picture_with_something_on_it(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="PNG needs matplotlib")
    import numpy as np
    from matplotlib.image import imread

    from windtunnel.report.png import png

    for panel in list(panels(example()).values())[:4]:
        (tmp_path / "a.png").write_bytes(png(panel))
        picture = imread(tmp_path / "a.png")[::4, ::4]
        assert picture.shape[:2] == (220, 360) and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


def test_without_matplotlib_svg_and_csv_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert {path.suffix for path in save(example(), tmp_path)} == {".svg", ".csv"}


def test_an_svg_stands_alone_and_asks_for_nothing():
    for panel in panels(example()).values():
        text = svg(panel).decode()
        tree = ElementTree.fromstring(text)
        assert tree.tag == f"{NS}svg" and int(tree.attrib["width"]) == figures.WIDTH
        assert "var(" not in text and not re.search(r"href|url\(|@import|<script", text)
        assert all(name in text for _, name in figures.legend([panel]) if len(name) <= 34)


def test_every_tone_that_a_mark_may_have_is_a_colour_of_the_file():
    assert "var(" not in stylesheet() and {"ink", "base", "idea", "truth", "alarm", "ramp4"} <= set(palette())
    for tone in figures.TONES:
        colour = palette()[{"mark": "ink"}.get(tone, tone)]
        assert f".line.{tone}{{stroke: {colour};" in stylesheet()


def test_a_table_holds_what_is_drawn():
    (panel,) = [panel for name, panel in panels(example()).items() if name.startswith("loss")]
    dots = [row for row in rows_of(panel) if row["mark"] == "dots" and "truth" not in row["note"]]
    points = [p for recipe in example()["recipes"] for p in recipe["points"] if p["loss"]]
    assert sorted((float(r["x"]), float(r["y"])) for r in dots) == sorted((p["flops"], p["loss"]) for p in points)
    band = [row for row in rows_of(panel) if row["mark"] == "band"]
    assert len(band) == sum(len(recipe["band"]) for recipe in example()["recipes"])
    assert all(float(row["low"]) < float(row["high"]) for row in band)
    assert tuple(rows_of(panel)[0]) == COLUMNS


def test_a_name_that_a_spreadsheet_would_compute_is_text():
    for name in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1"):
        panel = Panel("", "", Axis("x"), Axis("y"), (Dots(((1.0, 2.0, name),), "base", name=name),))
        (row,) = rows_of(panel)
        assert row["name"] == row["note"] == f"'{name}"


@pytest.mark.parametrize(
    "payload", [HOSTILE, "../../../etc/passwd\0", "$\\frac{", "\x1b[31m\r\n", "_hidden", "x" * 10_000]
)
def test_hostile_names_become_text_in_files_that_stay_in_their_folder(tmp_path: Path, payload: str):
    folder, study = tmp_path / "figures", everything_replaced(example(), payload)
    written = save({"verdicts": study["verdicts"], "basins": study["basins"][:1]}, folder)
    assert {path.parent for path in written} == {folder} and [p.name for p in tmp_path.iterdir()] == ["figures"]
    assert all(re.fullmatch(r"[A-Za-z0-9-]{1,90}\.(svg|csv|png)", path.name) for path in written)
    for path in written:
        if path.suffix == ".svg":
            tree = ElementTree.fromstring(path.read_bytes())
            assert not [e for e in tree.iter() if e.tag == f"{NS}script" or any(a.startswith("on") for a in e.attrib)]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match=f"Figures need a folder, and .*{folder} is a file"):
            save(example(), tmp_path / folder)


if __name__ == "__main__":  # python tests/test_figures.py FOLDER: look at the example's figures
    print(*save(example(), sys.argv[1]), sep="\n")
