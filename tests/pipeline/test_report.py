"""The report as files: one page that needs nothing else, JSON beside it, what is refused."""

import json
import re
import sys
from pathlib import Path

import pytest
from fakes import GrayModel
from makers import HARD_FILES, make_video, still
from pages import Page

import tinyhd
from tinyhd.cli.main import main
from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.network.registry import MODELS
from tinyhd.pipeline.report import model_facts
from tinyhd.saliency.boxes import MovingBox

ROOT = Path(__file__).resolve().parents[2]
REGIONS = {
    "regions": {
        "logo <b>": [0.7, 0.0, 1.0, 0.3],
        "road": [[0.0, 1.0], [0.5, 0.5], [1.0, 1.0]],
        "ball": [
            {"time_seconds": 0.2, "box": [0.1, 0.4, 0.3, 0.6]},
            {"time_seconds": 0.6, "box": [0.5, 0.4, 0.7, 0.6]},
        ],
    }
}


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(REGIONS))
    return path


def test_one_page_that_needs_nothing_else(tmp_path: Path, regions: Path) -> None:
    source = make_video(tmp_path / "clip.mp4", 40)
    result = tinyhd.report(source, tmp_path / "report.html", regions=regions, backend=GrayModel())
    text = result.output.read_text()
    page = Page(text)
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import", text)
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == 2 * 10
    assert len(text) < 5e6
    for sentence in (
        "logo <b>",
        "no score of memory, emotion, liking or trust",
        "No measured accuracy of this model is on record",
        "most attended twentieth",
    ):
        assert sentence in page.text
    assert "Side by side" not in page.text
    # parts of one chart are not taken for those of another
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(ids)


def test_charts_have_the_colors_of_the_page(tmp_path: Path) -> None:
    result = tinyhd.report(make_video(tmp_path / "clip.mp4"), tmp_path / "report.html", backend=GrayModel())
    (chart,) = re.findall(r"<svg.*?</svg>", result.output.read_text(), re.S)
    assert "var(--ink)" in chart
    assert not re.search(r"#[0-9a-f]{6}", chart)


def test_numbers_beside_it(tmp_path: Path, regions: Path) -> None:
    source = make_video(tmp_path / "clip.mp4", 40)
    result = tinyhd.report(source, tmp_path / "report.html", regions=regions, backend=GrayModel())
    content = json.loads(result.json.read_text())
    (video,) = content["videos"]
    assert video["focus"] == pytest.approx(result.videos[0].focus, abs=1e-5)
    assert len(video["over_time"]["focus"]) == 40
    by_name = {region["name"]: region for region in video["regions"]}
    assert set(by_name) == {"logo <b>", "road", "ball"}
    assert by_name["road"]["area"] == pytest.approx(0.25, abs=0.01)
    assert by_name["ball"]["present_seconds"] == pytest.approx(0.44)
    assert video["over_time"]["region:ball"][0] is None
    assert "twentieth" in content["definitions"]["focus"]
    assert content["differences"] == []


def test_two_videos_side_by_side(tmp_path: Path) -> None:
    sources = [make_video(tmp_path / "one.mp4", 40), make_video(tmp_path / "two.mp4", 50)]
    logo = [MovingBox("logo", (0.0,), ((0.0, 0.0, 0.3, 0.3),))]
    result = tinyhd.report(sources, tmp_path / "report.html", regions=[logo, logo], backend=GrayModel())
    page = Page(result.output.read_text())
    assert "Differences from one.mp4" in page.text
    assert [each.what for each in result.differences] == [
        "focus",
        "share of the middle quarter of the picture",
        "share of logo",
    ]
    for each, entry in zip(result.differences, json.loads(result.json.read_text())["differences"], strict=True):
        assert entry["difference"] == pytest.approx(each.difference, abs=1e-5)
        assert each.low <= each.difference <= each.high


def test_videos_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    sources = [make_video(tmp_path / folder / "clip.mp4") for folder in ("a", "b")]
    result = tinyhd.report(sources, tmp_path / "report.html", backend=GrayModel())
    assert [video.name for video in result.videos] == ["clip.mp4", "clip.mp4 (2)"]


@pytest.mark.parametrize("name", ["one_frame", "rotated_90", "late_video", "non_square", "odd_size", "truncated"])
def test_all_kinds_of_files(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = tinyhd.report(made.path, tmp_path / "report.html", backend=GrayModel())
    assert result.damaged == made.damaged
    assert Page(result.output.read_text()).tags.count("img") >= 2


@pytest.mark.parametrize("model", ["tinyhd-m", "tinyhd-lite", "tinyhd-clean"])
def test_accuracy_is_that_of_the_model_card(model: str) -> None:
    info = MODELS[model]
    facts = model_facts(f"sha256:{info.sha256}")
    card = (ROOT / "MODEL_CARD.md").read_text()
    assert facts.measured, f"models/{model}.json is of another model: write down what the new one's card says"
    for row in facts.measured:
        assert row["data"] in card
        assert f"{row['nss']:.2f} / {row['auc_judd']:.3f} / {row['cc']:.3f} / {row['sim']:.3f}" in card
    assert facts.focus in " ".join(card.split())
    assert len(facts.limits) >= 4
    assert model_facts("sha256:other").measured == ()


def test_what_is_refused(tmp_path: Path, regions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, page = make_video(tmp_path / "clip.mp4", 4), tmp_path / "report.html"
    with pytest.raises(OptionError, match="is no name for a report"):
        tinyhd.report(source, tmp_path / "report.pdf", backend=GrayModel())
    with pytest.raises(InputError, match=r"is a still image: name a video\.$"):
        tinyhd.report(still(tmp_path).path, page, backend=GrayModel())
    with pytest.raises(OptionError, match="there are 1 videos and 2 files of regions"):
        tinyhd.report(source, page, regions=[regions, regions], backend=GrayModel())
    with pytest.raises(OptionError, match="there are 1 videos and 2 tracks"):
        tinyhd.report(source, page, tracks=["a", "b"])
    with pytest.raises(OptionError, match="the threshold is 10"):
        tinyhd.report(source, page, threshold=10, backend=GrayModel())
    outside = tmp_path / "outside.json"
    outside.write_text('{"regions": {"logo": [0.5, 0.5, 20, 20]}}')
    with pytest.raises(OptionError, match="'logo' reaches outside the picture"):
        tinyhd.report(source, page, regions=outside, backend=GrayModel())
    other = tmp_path / "other.npz"
    tinyhd.analyze(make_video(tmp_path / "other.mp4", 5), other, backend=GrayModel())
    with pytest.raises(InputError, match="is of another video"):
        tinyhd.report(source, page, tracks=[other])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r'pip install "tinyhd\[report\]"'):
        tinyhd.report(source, page, backend=GrayModel())
    assert not page.exists()


def test_the_command(
    tmp_path: Path, regions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinyhd.pipeline.report.open_backend", lambda options: GrayModel())
    source, page = make_video(tmp_path / "clip.mp4", 10), tmp_path / "report.html"
    assert main(["report", str(source), "--regions", str(regions), "-o", str(page), "--title", "Ours & <theirs>"]) == 0
    assert "Ours &amp; &lt;theirs&gt;" in page.read_text()
    assert "report.json" in capsys.readouterr().err
    assert main(["report", str(source), "-o", str(page)]) == 1
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(OutputError):
        tinyhd.report(source, page, backend=GrayModel())
