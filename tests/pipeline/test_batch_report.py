"""What a batch has done, as a page and a table."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import makers
import pyarrow.parquet
import pytest
from fakes import GrayModel
from pages import Page

from tinyhd.cli.main import annotate_main, main
from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.pipeline.batch_report import batch_report
from tinyhd.pipeline.manifest import MANIFEST_NAME


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a batch of four was done: two well, one badly, one not at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    for name, count in (("a", 3), ("<b> & 'c'", 9)):
        makers.clip(tmp_path / f"{name}.mp4", count)
    makers.truncated(tmp_path)
    (tmp_path / "d.mp4").write_text("not a video")
    assert annotate_main(["*.mp4", "--output-dir", "out"]) == 1
    return tmp_path


def test_page_and_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["batch-report", "out"]) == 0
    assert "4 inputs (1 damaged, 2 done, 1 failed)" in capsys.readouterr().err
    text = (folder / "out" / "tinyhd-report.html").read_text()
    page = Page(text)
    assert not set(page.tags) & {"script", "img", "link", "b'"}
    assert page.links == []
    assert "<b> & 'c'.mp4" in page.text
    assert "… is not a video file, or is damaged beyond reading (Invalid data found when processing input)" in page.text
    assert "The file is shorter than its header says" in page.text
    with (folder / "out" / "tinyhd-report.csv").open(newline="") as file:
        rows = {os.path.basename(row["input"]): row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.mp4": "done",
        "<b> & 'c'.mp4": "done",
        "truncated.mp4": "damaged",
        "d.mp4": "failed",
    }
    assert rows["<b> & 'c'.mp4"]["frames"] == "9"
    assert rows["d.mp4"]["frames"] == ""
    assert Path(rows["a.mp4"]["outputs"]).is_file()


def test_the_last_attempt_counts(folder: Path) -> None:
    makers.clip(folder / "d.mp4", 5)
    assert annotate_main(["d.mp4", "--output-dir", "out"]) == 0
    with (folder / "out" / MANIFEST_NAME).open("a") as file:
        begun = json.loads((folder / "out" / MANIFEST_NAME).read_text().splitlines()[0])
        file.write(json.dumps(begun | {"input": "/e.mp4"}) + "\n" + '{"input": "/f')
    result = batch_report("out")
    assert result.counts == {"done": 3, "damaged": 1, "unfinished": 1}
    (row,) = [row for row in result.rows if row.input.endswith("/d.mp4")]
    assert (row.frames, row.attempts, row.reason) == (5, 2, "")

    # of another machine, whose clock is late
    lines = [json.loads(line) for line in (folder / "out" / MANIFEST_NAME).read_text().splitlines()[:-1]]
    late = next(line for line in lines if line["input"] == row.input and line["status"] == "done")
    again = late | {"attempt": 3, "frames": 7, "time": late["time"] - 100}
    (folder / "out" / "tinyhd-manifest-other-0.jsonl").write_text(json.dumps(again) + "\n")
    rows = batch_report("out", overwrite=True).rows
    assert [row.frames for row in rows if row.input == late["input"]] == [7]


def test_parquet(folder: Path) -> None:
    result = batch_report("out", table="t.parquet")
    table = pyarrow.parquet.read_table(result.table)
    assert table.column("frames").to_pylist() == [row.frames for row in result.rows]
    assert str(table.schema.field("seconds").type) == "double"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_names_that_are_no_text(folder: Path) -> None:
    os.rename("a.mp4", b"\xff.mp4")
    assert annotate_main([os.fsdecode(b"\xff.mp4"), "--output-dir", "out"]) == 0
    result = batch_report("out")
    assert "\\udcff.mp4" in result.output.read_text()
    assert b"\xff.mp4" in result.table.read_bytes()
    batch_report("out", "x.html", table="x.parquet")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"folder": "."},
            InputError,
            r"no tinyhd-manifest.jsonl in '\.': name the --output-dir of a batch\.$",
        ),
        ({"folder": "out", "output": "x.pdf"}, OptionError, "must end in .html"),
        ({"folder": "out", "table": "x.xls"}, OptionError, "must end in .csv, .parquet"),
        ({"folder": "out", "table": "a.mp4.csv"}, OutputError, "exists already"),
        ({"folder": "out", "output": "no/x.html"}, OutputError, "there is no folder 'no'"),
    ],
)
def test_what_is_refused(folder: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    Path("a.mp4.csv").touch()
    with pytest.raises(error, match=message):
        batch_report(**arguments)
