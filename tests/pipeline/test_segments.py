"""A long video in segments: the same track as in one piece, with any cuts, times and windows."""

import itertools
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import makers
import numpy as np
import pytest
from fakes import GrayModel

from tinyhd.cli.main import annotate_main
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.analyze import analyze
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.manifest import TODO, Plan
from tinyhd.pipeline.segments import Film, Span, plan_spans
from tinyhd.pipeline.workers import run_jobs
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.reader import probe, read_frames


class WindowModel(GrayModel):
    """Maps that depend on all 16 frames and on the position among them, as those of real networks do."""

    equalize = True

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        maps = super().__call__(clips)
        ramp = np.linspace(0.5, 1.5, 16, dtype=np.float32)[None, :, None, None]
        return 0.6 * maps * ramp + 0.4 * maps.mean(1, keepdims=True)


class LastFrameModel(WindowModel):
    """One map for each clip, as of the variant S."""

    maps_per_clip = 1

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return super().__call__(clips)[:, -1:]


def shots_video(path: Path, lengths: list[int], pts: list[int] | None = None, **facts: Any) -> Path:
    """Shots of unlike pictures in which a light moves, so that every frame is another."""
    rng = np.random.default_rng(0)
    numbers = [(shot, k) for shot, length in enumerate(lengths) for k in range(length)]
    scenes = [rng.uniform(0, 200, (8, 8, 3)).repeat(8, 0).repeat(12, 1) for _ in lengths]

    def draw(_rgb: np.ndarray, position: int) -> np.ndarray:
        shot, k = numbers[position]
        picture = scenes[shot].copy()
        picture[20:40, (2 * k) % 80 : (2 * k) % 80 + 12] += 55
        return picture.astype(np.uint8)

    facts = {"time_base": Fraction(1, 1000)} | facts if pts else facts
    return makers.make_video(path, len(numbers), width=96, height=64, transform=draw, pts=pts, **facts)


def in_segments(path: Path, backend: Backend, seconds: float, **job: Any) -> SaliencyTrack:
    out = path.with_suffix(".track.npz")
    plan = Plan(TODO, Job(path, out, "analyze", **job))
    options = BatchOptions(segment_minutes=seconds / 60)
    (outcome,) = run_jobs([plan], plan.job.inference, options, backend=backend)
    assert outcome.error is None, outcome.error
    assert not list(path.parent.glob(".tinyhd-*"))
    return SaliencyTrack(out)


def difference(track: SaliencyTrack, unsplit: SaliencyTrack) -> float:
    """Largest difference of two tracks' maps, as a share of the largest value; their times and cuts are the same."""
    assert track.times.tolist() == unsplit.times.tolist()
    assert track.cuts.tolist() == unsplit.cuts.tolist()
    apart = max(float(np.abs(track.sample(k) - unsplit.sample(k)).max()) for k in range(len(track)))
    return apart / unsplit.info.value_range[1]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The segments that were computed."""
    from tinyhd.pipeline import segments

    done: list[Any] = []
    run = segments.Segment.run

    def noted(self: Any, backend: Any) -> None:
        run(self, backend)
        done.append(self)

    monkeypatch.setattr(segments.Segment, "run", noted)
    return done


LENGTHS = [50, 9, 180, 20, 90]
UNEVEN = np.cumsum([0] + [20, 45, 33, 80, 40, 17, 41] * 50)[:349].tolist()


@pytest.mark.parametrize(
    ("pts", "inference", "model", "facts"),
    [
        (None, {}, WindowModel(12.5), {}),
        (UNEVEN, {}, WindowModel(12.5), {}),
        (UNEVEN, {"sampling_rate": 0}, WindowModel(), {"gop_size": 250}),
        (None, {"windowing": "published"}, WindowModel(12.5), {"codec": "mpeg4"}),
        (None, {"overlap": 11}, WindowModel(8), {}),
        (None, {"cuts": False}, WindowModel(12.5), {}),
        (UNEVEN, {}, LastFrameModel(12.5), {}),
    ],
)
def test_as_in_one_piece(
    pts: Any, inference: dict[str, Any], model: Backend, facts: dict[str, Any], tmp_path: Path, parts: list[Any]
) -> None:
    video = shots_video(tmp_path / "a.mkv", LENGTHS, pts, **facts)
    options = InferenceOptions(**inference)
    unsplit = analyze(video, inference=options, backend=model)
    track = in_segments(video, model, 2.5, inference=options)
    apart = difference(track, unsplit)
    print(f"{len(parts)} segments, {len(track)} samples, {len(track.cuts)} cuts: they differ by {apart:.1e}")
    assert len(track.cuts) == (4 if options.cuts else 0)
    assert len(parts) >= 3
    assert apart <= 1e-3
    assert track.info == unsplit.info


def test_a_part_of_a_video(tmp_path: Path, parts: list[Any]) -> None:
    video, model = shots_video(tmp_path / "a.mp4", LENGTHS), WindowModel(12.5)
    part = {"start": Fraction("1.5"), "end": Fraction("12.01")}
    track = in_segments(video, model, 2, **part)
    assert len(parts) >= 3
    assert difference(track, analyze(video, backend=model, **part)) <= 1e-3


def test_cuts_where_stretches_begin(tmp_path: Path, parts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found from the frames before; more is read where a first guess holds too few."""
    monkeypatch.setattr("tinyhd.pipeline.segments._LEAD_SECONDS", Fraction(1, 100))
    video, model = shots_video(tmp_path / "a.mp4", [50] * 4), WindowModel(12.5)
    track = in_segments(video, model, 2)
    assert len(track.cuts) == len(parts) - 1 == 3
    assert difference(track, analyze(video, backend=model)) <= 1e-3


def test_interlaced(tmp_path: Path, parts: list[Any]) -> None:
    options = {"flags": "+ildct+ilme", "field_order": "tt"}
    video = shots_video(tmp_path / "a.mkv", LENGTHS, codec="mpeg2video", options=options)
    track = in_segments(video, WindowModel(12.5), 2.5)
    assert len(parts) >= 3
    assert difference(track, analyze(video, backend=WindowModel(12.5))) <= 1e-3


def test_what_cannot_be_split_is_not(tmp_path: Path, parts: list[Any]) -> None:
    short = shots_video(tmp_path / "short.mp4", [30])
    in_segments(short, WindowModel(), 2)
    damaged = makers.truncated(tmp_path).path
    plan = Plan(TODO, Job(damaged, tmp_path / "damaged.track.npz", "analyze"))
    (outcome,) = run_jobs([plan], InferenceOptions(), BatchOptions(segment_minutes=0.01), backend=WindowModel())
    assert outcome.result is not None
    assert outcome.result.damaged
    assert not parts
    assert not list(tmp_path.glob(".tinyhd-*"))


def test_an_interrupted_run_goes_on(tmp_path: Path, parts: list[Any]) -> None:
    """The tracks that were complete are not computed again; nothing is left at the end."""
    video = shots_video(tmp_path / "a.mp4", LENGTHS)

    class Interrupted(WindowModel):
        def __call__(self, clips: np.ndarray) -> np.ndarray:
            if len(parts) == 3:
                raise KeyboardInterrupt
            return super().__call__(clips)

    plan = Plan(TODO, Job(video, tmp_path / "a.track.npz", "analyze"))
    options = BatchOptions(segment_minutes=2.5 / 60)
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([plan], InferenceOptions(), options, backend=Interrupted(12.5)))
    (folder,) = tmp_path.glob(".tinyhd-parts-*")
    kept = sorted(folder.glob("*-part-*.npz"))
    assert len(kept) == 3
    assert all(len(SaliencyTrack(part)) for part in kept)
    assert not list(folder.glob(".tinyhd-*"))
    assert not plan.job.output.exists()  # type: ignore[union-attr]

    parts.clear()
    track = in_segments(video, WindowModel(12.5), 2.5)
    print(f"segments kept: {len(kept)}, computed: {len(parts)}")
    assert len(parts) >= 1
    assert not {part.target.name for part in parts} & {part.name for part in kept}
    assert difference(track, analyze(video, backend=WindowModel(12.5))) <= 1e-3


def test_parts_of_another_run_are_told_apart(tmp_path: Path) -> None:
    """By the settings, by how long segments are, and by the input, which may be replaced."""
    job = Job(shots_video(tmp_path / "a.mp4", [300]), tmp_path / "a.track.npz", "analyze")

    def first_part(job: Job, minutes: float = 0.05) -> str:
        film = Film(job, minutes)
        (scan, *_) = next(film.stages())
        film.clear()
        return scan.target.name  # type: ignore[union-attr]

    other = replace(job, inference=InferenceOptions(overlap=8))
    names = [first_part(job), first_part(job), first_part(other), first_part(job, 0.04)]
    os.utime(job.input)
    names.append(first_part(job))
    assert names[0] == names[1]
    assert len(set(names)) == 4


def test_a_failure_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    video = shots_video(tmp_path / "a.mp4", LENGTHS)

    class Failing(WindowModel):
        def __call__(self, clips: np.ndarray) -> np.ndarray:
            raise MemoryError

    plan = Plan(TODO, Job(video, tmp_path / "a.track.npz", "analyze"))
    outcomes = list(run_jobs([plan], InferenceOptions(), BatchOptions(segment_minutes=2.5 / 60), backend=Failing(12.5)))
    assert [outcome.error for outcome in outcomes] == [f"{os.fspath(video)!r}: out of memory."]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 5, 12, 16])
def test_spans(every: int, stride: int) -> None:
    """All frames are kept once, in order; borders within shots lie where windows start, their context in the shot."""
    rng = np.random.default_rng(every)
    for _ in range(30):
        count = int(rng.integers(1, 3000))
        seconds = np.cumsum(rng.uniform(0.01, 0.1, count))
        cuts = np.unique(rng.integers(1, max(2, count), int(rng.integers(0, 12))))
        cuts = cuts[cuts < count]
        spans = plan_spans(seconds, cuts, every, stride, 5.0)
        edges = [spans[0].keep_from, *(span.keep_to for span in spans)]
        assert edges[0] == 0
        assert edges[-1] == count
        assert all(a < b for a, b in itertools.pairwise(edges))
        for span in spans:
            assert span.read_from <= span.keep_from < span.keep_to < span.read_to + every
            assert span.read_to <= count
            shot = max([0, *cuts[cuts <= span.keep_from].tolist()])
            assert span.read_from >= shot
            assert (span.keep_from - shot) % (stride * every) == (span.read_from - shot) % (stride * every) == 0
            if span.read_from < span.keep_from:
                assert (span.keep_from - span.read_from) // every >= 16 - stride
    assert plan_spans(np.arange(10.0), np.array([], int), 1, 12, 100.0) == [Span(0, 10, 0, 10)]


# ---- with the embedded model


def with_frames_left_out(source: Path, target: Path) -> Path:
    """A copy of a video without a third of its frames, at random, at the times of those that stay."""
    rng = np.random.default_rng(0)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        info = probe(source)
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "yuv420p"
        stream.time_base = Fraction(1, 1000)
        for frame in read_frames(source):
            if rng.uniform() < 1 / 3:
                continue
            image = frame.image.reformat(format="yuv420p")
            image.pts, image.time_base = round(frame.time * 1000), stream.time_base
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return target


def test_workers_and_annotated_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shots_video(tmp_path / "v.mp4", [70, 60, 50])
    command = ["v.mp4", "--output-dir", "out", "--segment-minutes", "0.04", "--workers", "2", "--stats", "v.csv"]
    assert annotate_main(command) == 0
    assert "v.mp4: 3 of 3 segments analyzed" in capsys.readouterr().err
    assert annotate_main(["v.mp4", "-o", "one.mp4", "--stats", "one.csv"]) == 0
    assert len(list(read_frames("out/v.saliency.mp4"))) == len(list(read_frames("one.mp4"))) == 180
    split, whole = (np.genfromtxt(n, delimiter=",", names=True) for n in ("v.csv", "one.csv"))
    np.testing.assert_allclose(split["entropy_bits"], whole["entropy_bits"], rtol=2e-3)
    assert {path.name for path in Path("out").iterdir() if not path.name.endswith(".lock")} == {
        "v.saliency.mp4",
        "tinyhd-manifest.jsonl",
    }


def test_a_real_video(shared: Path, tmp_path: Path, parts: list[Any]) -> None:
    """A multi-shot video of people, at a constant rate and with frames left out at random."""
    source = shared / "data/unlabelled/videos/film_tears-of-steel-battle-clip-medium.mp4"
    model = open_backend()
    vfr = with_frames_left_out(source, tmp_path / "vfr.mkv")
    for video in (source, vfr):
        copy = tmp_path / f"{len(video.name)}{video.suffix}"
        copy.write_bytes(video.read_bytes())
        parts.clear()
        track, unsplit = in_segments(copy, model, 6), analyze(copy, backend=model)
        apart = difference(track, unsplit)
        print(f"{len(parts)} segments, {len(track)} samples, {len(track.cuts)} cuts: they differ by {apart:.1e}")
        assert len(parts) >= 3
        assert len(track.cuts) >= 2
        assert apart <= 1e-3
