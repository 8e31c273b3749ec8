"""Readers of fixation files and of DHF1K, Hollywood-2 and UCF-Sports, on made folders in their layouts."""

from pathlib import Path

import numpy as np
import pytest
from makers import make_video, read_barcode, write_fixations
from PIL import Image
from scipy.io import savemat

from tinyhd.errors import InputError, OptionError
from training.datasets import read_dhf1k, read_hollywood2, read_ucf_sports
from training.fixations import read_image_fixations, read_video_fixations

HEIGHT, WIDTH = 24, 32


def fixation_map(number: int) -> np.ndarray:
    """Two fixated pixels; one depends on the frame's number."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[5, 7] = values[number % HEIGHT, 3] = 255
    return values


def write_maps(folder: Path, names: list[str], numbers: list[int], kind: str = "png") -> None:
    """maps/ and fixation/ of a shot; `kind`: where the fixations are, png or mat."""
    for part in ("maps", "fixation", "fixation/maps"):
        (folder / part).mkdir(parents=True)
    for name, number in zip(names, numbers, strict=True):
        Image.fromarray(np.full((HEIGHT, WIDTH), number, np.uint8)).save(folder / "maps" / f"{name}.png")
        if kind == "png":
            Image.fromarray(fixation_map(number)).save(folder / "fixation" / f"{name}.png")
        else:
            savemat(folder / "fixation" / "maps" / f"{name}.mat", {"I": fixation_map(number) // 255})


def write_images(folder: Path, names: list[str], numbers: list[int]) -> None:
    (folder / "images").mkdir(parents=True)
    for name, number in zip(names, numbers, strict=True):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(folder / "images" / f"{name}.png")


def fixated_rows(points: object) -> list[int]:
    return sorted(points.pixels(HEIGHT, WIDTH)[0].tolist())


def test_dhf1k(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    for number in (1, 600, 601):
        make_video(tmp_path / "video" / f"{number:03d}.AVI", 8, codec="mpeg4", container="avi")
        names = [f"{n:04d}" for n in range(1, 6)]  # fewer maps than frames
        kind = "mat" if number == 600 else "png"
        write_maps(tmp_path / "annotation" / f"{number:04d}", names, [11, 12, 13, 14, 15], kind)
    make_video(tmp_path / "video" / "701.AVI", 2, codec="mpeg4", container="avi")  # a test video: no annotation

    first, last = read_dhf1k(tmp_path, "train")
    assert (first.name, last.name) == ("001", "600")
    assert [v.name for v in read_dhf1k(tmp_path, "validation")] == ["601"]
    assert len(first) == 5
    assert [read_barcode(frame) for frame in first.frames()] == [0, 1, 2, 3, 4]
    assert [read_barcode(frame) for frame in first.frames(start=3)] == [3, 4]
    for video in (first, last):  # from PNG and from MATLAB files
        assert fixated_rows(video.fixations(1)) == [5, 12]
    assert first.density(1).values.shape == (HEIGHT, WIDTH)
    with pytest.raises(OptionError, match="no split 'test'; it must be one of train, validation"):
        read_dhf1k(tmp_path, "test")
    with pytest.raises(InputError, match=r"no DHF1K video .* expected are video/001.AVI"):
        read_dhf1k(tmp_path / "video")


def test_hollywood2_shots_keep_the_clips_frame_numbers(tmp_path: Path) -> None:
    names = [f"actioncliptrain00026_{n:05d}" for n in (98, 99, 100)]
    shot = tmp_path / "training" / "actioncliptrain00026_10"
    write_images(shot, names, [98, 99, 100])
    write_maps(shot, names[:2], [98, 99])  # the last frame has no maps
    (tmp_path / "training" / "actioncliptrain00026_1").mkdir()  # an empty shot is left out
    [video] = read_hollywood2(tmp_path)
    assert video.name == "actioncliptrain00026_10"
    assert [frame[0, 0, 0] for frame in video.frames()] == [98, 99, 100]
    assert [frame[0, 0, 0] for frame in video.frames(start=2)] == [100]
    assert fixated_rows(video.fixations(1)) == sorted([5, 99 % HEIGHT])
    assert len(video.fixations(2)) == 0
    assert video.density(2) is None
    with pytest.raises(InputError, match=r"no Hollywood-2 video of the split test; expected are folders testing/"):
        read_hollywood2(tmp_path, "test")


def test_ucf_sports(tmp_path: Path) -> None:
    names = [f"Diving-Side_001_{n:03d}" for n in (1, 2)]
    write_images(tmp_path / "testing" / "Diving-Side-001", names, [1, 2])
    write_maps(tmp_path / "testing" / "Diving-Side-001", names, [0, 2], "mat")
    [video] = read_ucf_sports(tmp_path, "test")
    assert (video.name, len(video)) == ("Diving-Side-001", 2)
    assert fixated_rows(video.fixations(1)) == [2, 5]
    assert video.density(0) is None  # an empty map
    assert video.density(1).values.sum() == pytest.approx(1)


def test_a_density_map_among_the_fixations_is_refused(tmp_path: Path) -> None:
    names = ["Kicking-Front_003_001"]
    shot = tmp_path / "training" / "Kicking-Front-003"
    write_images(shot, names, [1])
    write_maps(shot, names, [1])
    path = shot / "fixation" / "Kicking-Front_003_001.png"
    Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)).save(path)
    [video] = read_ucf_sports(tmp_path)
    with pytest.raises(InputError, match=r"Kicking-Front_003_001.png: a fixation map must be binary"):
        video.fixations(0)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        video.fixations(0)


def test_timed_fixations_of_videos(tmp_path: Path) -> None:
    looks = [(1, 1, 0.1, 0.5, 100, 100), (0, 1, 0.2, 0.6, 0, 50), (1, 2, 0.3, 0.7, 200, 200), (1, 3, 0.4, 0.8, 300, 50)]
    write_fixations(tmp_path, ["a.mp4", "b.mp4"], looks)
    first, second = read_video_fixations(tmp_path)
    assert (first.name, second.path) == ("a.mp4", tmp_path / "b.mp4")
    # a fixation counts from its start to just before its end
    expected = {99: [], 100: [0.1], 199.9: [0.1], 200: [0.3], 300: [0.3, 0.4], 349: [0.3, 0.4], 350: [0.3], 400: []}
    assert {t: second.at(t).x.round(6).tolist() for t in expected} == expected
    assert first.at(0).y == pytest.approx([0.6])


def test_image_fixations_and_their_held_out_part(tmp_path: Path) -> None:
    count = 103
    looks = [(0, 0, 0.5, 0.5), (102, 0, 0.25, 0.25), (102, 0, 0.75, 0.75)]
    write_fixations(tmp_path, [f"{n:04d}.jpg" for n in range(count)], looks, "image")
    held_out, train = (read_image_fixations(tmp_path, split) for split in ("held-out", "train"))
    assert [i.name for i in train] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    assert len(held_out) == 100
    assert held_out[-1].points.x.tolist() == [0.25, 0.75]
    assert len(read_image_fixations(tmp_path)) == count
    named = tmp_path / "fiwi"  # a set that holds out another number
    named.mkdir()
    (named / "fixations.npz").write_bytes((tmp_path / "fixations.npz").read_bytes())
    assert len(read_image_fixations(named, "held-out")) == 30
    assert len(read_image_fixations(named, "train")) == 73
    with pytest.raises(OptionError, match="no split 'test'"):
        read_image_fixations(tmp_path, "test")


def test_fixation_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*fixations.npz"):
        read_video_fixations(tmp_path)
    np.savez(tmp_path / "fixations.npz", image_names=np.array(["0.jpg"]))
    with pytest.raises(InputError, match="it has no video_names, video_index"):
        read_video_fixations(tmp_path)
    (tmp_path / "fixations.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as a NumPy archive"):
        read_image_fixations(tmp_path)
