"""The same input, options, model, machine and thread count: the same bytes; parts agree with the whole."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from makers import make_video

from tinyhd.options import InferenceOptions
from tinyhd.pipeline.analyze import analyze
from tinyhd.pipeline.annotate import annotate
from tinyhd.video.reader import read_frames

RATE, WINDOW, OVERLAP = 15, 16, 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a disc that moves, in one shot."""
    numbers = [k % 50 for k in range(8 * RATE)]
    return make_video(tmp_path_factory.mktemp("v") / "in.mp4", numbers, rate=Fraction(RATE), gop_size=RATE)


@pytest.mark.parametrize("windowing", ["crossfade", "published"])
def test_the_same_bytes(clip: Path, tmp_path: Path, windowing: str) -> None:
    """Of the track, the statistics and the maps, with the embedded model; and the same frames of the video, whose bytes
    are the encoder's: x264 with several threads does not always write the same for the last seconds."""
    inference = InferenceOptions(device="cpu", windowing=windowing)
    made, frames = [], []
    for run in ("1", "2"):
        folder = tmp_path / run
        folder.mkdir()
        analyze(clip, folder / "x.track.npz", inference=inference, end=3).close()
        annotate(clip, folder / "x.mp4", stats=folder / "x.csv", save_maps=folder / "x.npz", inference=inference, end=3)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
        frames.append(np.stack([frame.to_rgb() for frame in read_frames(folder / "x.mp4")]).astype(float))
    same = {name for name in made[0] if made[0][name] == made[1][name]}
    print(f"{windowing}: the same bytes: {', '.join(sorted(same))}")
    assert same >= {"x.track.npz", "x.csv", "x.npz"}
    assert np.sqrt(np.mean((frames[0] - frames[1]) ** 2)) < 1


def test_a_part_agrees_with_the_whole(clip: Path) -> None:
    """Where the windows lie as they do in the whole, as after a cut, maps are equal but for the ends. Elsewhere the
    network sees other groups of frames, and they are alike only."""
    inference = InferenceOptions(device="cpu", cuts=False, overlap=OVERLAP)
    start = Fraction(2 * (WINDOW - OVERLAP), RATE)  # where the third window begins
    end = start + 4
    interior = np.arange(start + Fraction(OVERLAP, RATE), end - Fraction(WINDOW, RATE), Fraction(1, RATE)).astype(float)
    with (
        analyze(clip, inference=inference) as whole,
        analyze(clip, inference=inference, start=start, end=end) as part,
        analyze(clip, inference=inference, end=end) as head,
        analyze(clip, inference=inference, start=start + Fraction(5, RATE), end=end) as other,
    ):
        maps = [np.stack(list(track.maps_at(interior))) for track in (whole, part, head, other)]
    peak = float(maps[0].max())
    aligned, first, elsewhere = (float(np.abs(m - maps[0]).max()) / peak for m in maps[1:])
    print(f"differences of the maximum: {aligned:.1e} and {first:.1e}; with windows elsewhere {elsewhere:.2f}")
    assert max(aligned, first) < 1e-3
    assert elsewhere > max(aligned, first)  # else the test would show nothing
