"""The upper bound, the intervals, the change of maps, the tables, and that what is there is not computed again."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend, small_network
from makers import make_video, write_fixations
from PIL import Image

from benchmark import quality
from benchmark.costs import Costs, network_costs, samples_per_second
from benchmark.quality import interval, leave_one_out, main, read_set, score_people, score_samples
from tinyhd.errors import InputError
from tinyhd.network.weights import save_model
from training import metrics
from training.evaluate import Protocol, Sample
from training.fixations import DensityMap, FixationPoints, center_prior

FRAMES = 30
COMMAND = ["--frames-every", "5", "--first", "4"]


def points(*rows: tuple[int, float, float]) -> FixationPoints:
    """Fixations given as viewer, x, y."""
    viewer, x, y = zip(*rows, strict=True)
    return FixationPoints(np.array(x), np.array(y), np.array(viewer))


# ---- people


def test_each_viewer_is_predicted_by_the_others_only() -> None:
    # two look at one place, a third elsewhere: that one's own fixations must not help
    together = [(0, 0.25, 0.5), (0, 0.25, 0.5), (1, 0.25, 0.5)]
    scores = leave_one_out(points(*together, (2, 0.75, 0.5)), None, 6)
    assert scores is not None
    prior = center_prior(192, 256)

    def predicted(fixated: list[tuple[float, float]], by: list[tuple[float, float]]) -> float:
        density = DensityMap.from_fixations(FixationPoints(*np.array(by).T), 192, 256, 6).values
        return metrics.nss(0.9 * density + 0.1 * prior.values, FixationPoints(*np.array(fixated).T))

    left, right = (0.25, 0.5), (0.75, 0.5)
    expected = [
        *[predicted([left], [left, right])] * 2,  # of viewer 0, by viewers 1 and 2
        predicted([left], [left, left, right]),
        predicted([right], [left, left, left]),
    ]
    assert scores["NSS"] == pytest.approx(np.mean(expected))  # each fixation counts once
    assert expected[-1] < 0.5 < expected[0]
    assert "sAUC" not in scores
    assert "CC" not in scores


def test_nobody_can_be_left_out_where_viewers_are_not_told_apart() -> None:
    assert leave_one_out(points((0, 0.1, 0.1), (0, 0.2, 0.2)), None, 6) is None
    assert leave_one_out(FixationPoints(np.array([0.1, 0.2]), np.array([0.1, 0.2])), None, 6) is None


def test_people_who_agree_are_a_high_bound_and_people_who_do_not_are_none() -> None:
    generator = np.random.default_rng(0)
    agree = points(*[(v, 0.3 + 0.01 * generator.normal(), 0.4) for v in range(20)])
    scattered = points(*[(v, *generator.random(2)) for v in range(200)])
    others = points(*[(v, *generator.random(2)) for v in range(500)])
    high, none = (leave_one_out(p, others, 6) for p in (agree, scattered))
    assert high is not None
    assert none is not None
    assert high["NSS"] > 8
    assert high["sAUC"] > 0.95
    assert abs(none["NSS"]) < 0.3
    assert none["sAUC"] == pytest.approx(0.5, abs=0.06)
    assert high["IG"] > 3 > none["IG"]


# ---- intervals


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(150):
        low, high = interval(generator.normal(3, 1, 20).tolist())
        inside += low <= 3 <= high
    assert 0.87 <= inside / 150 <= 0.99


def test_frames_of_one_video_are_no_evidence_about_others(data: Path) -> None:
    """More frames of the same videos must not make the interval narrower."""
    few, many = (
        read_set(data / "videos" / "clips", Protocol(first=4, every=every, min_fixations=2)) for every in (12, 2)
    )
    generator = np.random.default_rng(0)
    quality_of = dict(zip([item.name for item in few.items], generator.random(len(few.items)), strict=True))

    def width(of: quality.FixationSet) -> tuple[int, float]:
        scored = []
        for item in of.items:
            truths = [(frame, truth) for frame, truth in item.frames() if truth is not None]
            samples = []
            for frame, truth in truths:
                density = DensityMap.from_fixations(truth.fixations, 192, 256, 6).values
                share = quality_of[item.name]
                samples.append(Sample(item.name, share * density + (1 - share) / density.size, *truth, frame.index))
            scored.append(score_samples(item, samples, of))
        low, high = interval([video.scores["SIM"] for video in scored])
        return sum(video.frames_scored for video in scored), high - low

    (few_frames, wide), (many_frames, as_wide) = width(few), width(many)
    assert many_frames > 3 * few_frames
    assert as_wide == pytest.approx(wide, rel=0.05)


def test_intervals_of_next_to_nothing() -> None:
    assert interval([1.0, 2.0]) is None
    assert interval([0.5] * 4) == (0.5, 0.5)


# ---- the change of maps


def test_change_of_a_models_and_of_peoples_maps(data: Path) -> None:
    protocol = Protocol(first=4, every=5, min_fixations=2)
    of = read_set(data / "videos" / "clips", protocol)
    item = of.items[0]
    frames = [(frame, truth) for frame, truth in item.frames() if truth is not None]
    numbers = [frame.index for frame, _ in frames]
    assert numbers == [3, 4, 8, 9, 13, 14, 18, 19, 23, 24, 28, 29]  # with the frame before each that is scored
    left, right = np.zeros((192, 256)), np.zeros((192, 256))
    left[:, :128] = right[:, 128:] = 1
    half = left + right

    def change(before: np.ndarray, after: np.ndarray) -> float:
        samples = [
            Sample(item.name, (after if protocol.scores(frame.index) else before), *truth, frame.index)
            for frame, truth in frames
        ]
        result = score_samples(item, samples, of)
        assert result.frames_scored == 6
        return result.scores["change"]

    assert change(left, right) == pytest.approx(1)
    assert change(left, half) == pytest.approx(0.5)
    assert change(3 * left, left) == pytest.approx(0)
    # the viewers follow a spot that moves by 1/20 of the width every frame: 12.8 pixels at a sigma of 6
    people = score_people(item, of)
    assert people.scores["change"] == pytest.approx(0.71, abs=0.02)
    assert people.scores["NSS"] > 5


# ---- the command


class Spot(FakeBackend):
    """The map is the frame's brightness."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return (clips.mean(1) - clips.min()) ** 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos and five photos of bright spots, with people who look at them."""
    root = tmp_path_factory.mktemp("data")
    clips, photos = root / "videos" / "clips", root / "photos" / "fiwi"
    clips.mkdir(parents=True)
    photos.mkdir(parents=True)

    def spot(x: float) -> np.ndarray:
        rows, columns = np.mgrid[:96, :128]
        disc = (columns / 128 - x) ** 2 + (rows / 96 - 0.5) ** 2 < 0.05**2
        return np.repeat(np.where(disc, 235, 20).astype(np.uint8)[..., None], 3, 2)

    def place(number: int) -> float:
        return 0.05 + 0.9 * (number % 18) / 18

    rows = []
    for video in range(4):
        make_video(clips / f"{video}.mp4", FRAMES, transform=lambda _, number: spot(place(number)))
        rows += [(video, viewer, place(n), 0.5, 40 * n, 40) for n in range(FRAMES) for viewer in range(3)]
    write_fixations(clips, [f"{video}.mp4" for video in range(4)], rows)
    for number in range(5):
        Image.fromarray(spot(0.1 + 0.2 * number)).save(photos / f"{number}.png")
    looks = [(number, viewer, 0.1 + 0.2 * number, 0.5) for number in range(5) for viewer in range(6)]
    write_fixations(photos, [f"{number}.png" for number in range(5)], looks, "image")
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded."""
    names: list[str] = []

    def open_backend(options: object) -> Spot:
        names.append(options.model)
        return Spot()

    monkeypatch.setattr(quality, "open_backend", open_backend)
    monkeypatch.setattr(quality, "network_costs", lambda name: Costs(3_500_000, 3.25e9))
    monkeypatch.setattr(quality, "Protocol", lambda *values: Protocol(*values, *(2,) if len(values) == 2 else ()))
    return names


def test_the_tables(data: Path, tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output, tables = tmp_path / "quality.json", tmp_path / "quality.md"
    arguments = ["--data", str(data), "--output", str(output), "--markdown", str(tables), *COMMAND]
    assert main([*arguments, "--models", "tinyhd-m", "center", "people"]) == 0
    printed = capsys.readouterr().out
    assert tables.read_text() == printed
    overview, costs, clips, photos = ([
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ] for table in printed.split("\n\n"))  # fmt: skip
    assert overview[0] == ["NSS / CC", "CLIPS", "FIWI"]
    assert [row[0] for row in overview[2:]] == ["tinyhd-m", "center prior", "people (upper bound)"]
    assert overview[4][1].endswith(" / -")
    assert costs[2] == ["tinyhd-m", "3.50 million", "3.2 billion", "Apache-2.0"]
    assert clips[0][0] == "CLIPS: 4 videos, 24 frames"
    assert clips[0][-2:] == ["change", "NSS less tinyhd-m's"]
    assert photos[0][0] == "FIWI: 5 images"
    assert "change" not in photos[0]
    model, center, people = clips[2:]
    assert model[-1] == "-"
    assert center[-2] == "0.0000"
    assert center[-1].startswith("-")
    assert people[clips[0].index("KLD")] == "-"
    for text in (clips, photos):
        spot, prior = (float(row[1].split()[0]) for row in text[2:4])
        assert spot > 5 > prior

    content = json.loads(output.read_text())
    assert {entry["set"] for entry in content["scores"]} == {"clips", "fiwi"}
    first = content["scores"][0]
    assert first["mean"]["NSS"] == pytest.approx(np.mean([item["scores"]["NSS"] for item in first["items"]]))
    low, high = first["interval"]["NSS"]
    assert low <= first["mean"]["NSS"] <= high


def test_a_second_run_goes_on_where_the_first_stopped(
    data: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(data), "--output", str(tmp_path / "q.json"), "--models", "tinyhd-m", *COMMAND]
    score, calls, stops = quality.score_samples, [], [6]

    def interrupted(item: object, samples: object, of: object) -> object:
        calls.append(item.name)
        if len(calls) in stops:
            stops.clear()
            raise KeyboardInterrupt
        return score(item, samples, of)

    monkeypatch.setattr(quality, "score_samples", interrupted)
    assert main(arguments) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert calls == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "0.png", "1.png"]
    assert main(arguments) == 0
    assert calls[6:] == [f"{n}.png" for n in range(5)]  # the videos are there
    table = capsys.readouterr().out
    del calls[:], opened[:]
    assert main(arguments) == 0
    assert (calls, opened) == ([], [])
    assert capsys.readouterr().out == table
    # what scores depend on is part of what they are known by
    assert main([*arguments, "--sets", "FIWI", "--frames-every", "7"]) == 0
    assert len(calls) == 5
    monkeypatch.setattr(quality, "METRIC_VERSION", 999)
    assert main([*arguments, "--sets", "fiwi"]) == 0
    assert len(calls) == 10


def test_files_that_the_registry_knows_have_its_license(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.safetensors"
    save_model(small_network(), file)
    unknown = quality.tinyhd_model(str(file), quality.InferenceOptions())
    assert (unknown.label, unknown.license) == ("mine", "not known")
    monkeypatch.setattr(quality, "git_blob_id", lambda data: quality.MODELS["published/d123s_rc4_rc1T"].git_blob_id)
    known = quality.tinyhd_model(str(file), quality.InferenceOptions())
    assert (known.label, known.license) == ("published/d123s_rc4_rc1T", "not stated by the authors")


def test_costs(tmp_path: Path) -> None:
    network = small_network()
    save_model(network, tmp_path / "mine.safetensors")
    costs = network_costs(str(tmp_path / "mine.safetensors"))
    assert costs.parameters == sum(p.numel() for p in network.parameters())
    # the first convolution alone, 3x3x3 to 32 channels at half the size of 16 frames, in 25 / 12 windows a second
    assert costs.multiply_adds_per_second > 16 * 96 * 128 * 32 * 27 * 25 / 12
    assert [float(samples_per_second(rate)) for rate in (0, 15, 12, 5)] == [25, 12.5, 12.5, 5]


def test_mistakes_are_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        assert main(["--output", str(tmp_path / "q.json"), *arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    here = ["--data", str(data)]
    assert "there is no set 'osie' in" in error(*here, "--models", "center", "--sets", "osie")
    assert "there are fiwi, clips" in error(*here, "--models", "center", "--sets", "osie")
    assert "holds no folder with fixations.npz" in error("--data", str(tmp_path), "--models", "center")
    assert "needs --unisal FOLDER" in error(*here, "--models", "unisal")
    assert "holds no unisal/model.py" in error(*here, "--models", "unisal", "--unisal", str(tmp_path))
    assert "neither a model nor a file 'nothing.pth'" in error(*here, "--models", "nothing.pth")
    assert "two models are called center prior" in error(*here, "--models", "center", "center")
    assert "the step and the fewest fixations 1 or more" in error(*here, "--models", "center", "--frames-every", "0")
    (tmp_path / "q.json").write_text("[]")
    assert "holds no results of this benchmark" in error(*here, "--models", "center")
    seen = tmp_path / "eyecrowd"
    seen.mkdir()
    (seen / "fixations.npz").write_bytes((data / "photos" / "fiwi" / "fixations.npz").read_bytes())
    with pytest.raises(InputError, match="eyecrowd holds out no image"):
        read_set(seen, Protocol())
