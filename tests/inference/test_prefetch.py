"""A stage's thread, and the whole chain when a stage fails: it ends at once, with that error, and leaves nothing."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from fakes import GrayModel

from tinyhd.errors import InputError, OutputError
from tinyhd.inference.prefetch import prefetch
from tinyhd.inference.preprocess import Preprocessor
from tinyhd.pipeline.annotate import annotate
from tinyhd.video.pixel_format import FrameConverter
from tinyhd.video.writer import VideoWriter


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "tinyhd"] == []


class Source:
    """Counts, in whatever thread; knows how far it got and whether it was closed."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.given, self.closed_in = 0, ""
        self.count, self.error = count, error

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.given = number + 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed_in = threading.current_thread().name


@pytest.mark.parametrize("size", [1, 3, 100])
def test_items_come_in_order(size: int) -> None:
    source = Source(50)
    assert list(prefetch(iter(source), size)) == list(range(50))
    assert source.closed_in == "tinyhd"


def test_it_starts_when_asked_and_runs_no_further_than_allowed() -> None:
    source = Source(50)
    items = prefetch(iter(source), 3)
    assert source.given == 0
    assert next(items) == 0
    time.sleep(0.2)
    assert source.given == 5  # one taken, three ready, one in hand
    items.close()
    assert source.closed_in == "tinyhd"
    assert source.given == 5


def test_the_source_runs_beside_its_consumer() -> None:
    """Neither waits for the other to be done: each item is given while the consumer holds the one before."""
    held = threading.Event()
    given = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert held.wait(10)
        given.set()
        yield 1

    for number in prefetch(source(), 4):
        if number == 0:
            held.set()
            assert given.wait(10)


@pytest.mark.parametrize("error", [InputError("the disk is gone"), KeyboardInterrupt()])
def test_errors_come_after_the_items_before_them(error: BaseException) -> None:
    items = prefetch(iter(Source(5, error)), 2)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(type(error)):
        next(items)


def test_stages_end_each_other() -> None:
    source = Source(1000)
    items = prefetch(prefetch(iter(source), 2), 2)
    assert next(items) == 0
    items.close()
    assert source.closed_in == "tinyhd"
    assert source.given < 20


# ---- in the chain


def fail_at(number: int, error: BaseException, function: Any) -> Any:
    """`function`, which raises `error` when it is called for the `number`-th time."""
    calls = iter(range(1, 1_000_000))

    def failing(*args: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise error
        return function(*args, **options)

    return failing


class FailingModel(GrayModel):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        if self.clips:
            raise self.error
        return super().__call__(clips)


@pytest.mark.parametrize("stage", ["reader", "model", "writer", "progress"])
@pytest.mark.parametrize("error", [RuntimeError("stop"), OutputError("the disk is full"), KeyboardInterrupt()])
def test_a_failing_stage_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException
) -> None:
    source = makers.plain(tmp_path, 200).path
    model, progress = GrayModel(), None
    converted = [0]
    convert = FrameConverter.__call__

    def counted(self: Any, frame: Any) -> Any:
        converted[0] += 1
        return convert(self, frame)

    monkeypatch.setattr(FrameConverter, "__call__", counted)
    if stage == "reader":
        monkeypatch.setattr(Preprocessor, "image", fail_at(30, error, Preprocessor.image))
    if stage == "model":
        model = FailingModel(error)
    if stage == "writer":
        monkeypatch.setattr(VideoWriter, "write", fail_at(5, error, VideoWriter.write))
    if stage == "progress":
        progress = fail_at(5, error, lambda done, total: None)
    with pytest.raises(type(error)) as caught:
        annotate(source, tmp_path / "out.mp4", backend=model, progress=progress, stats=tmp_path / "out.csv")
    assert caught.value is error
    assert {path.name for path in tmp_path.iterdir()} == {source.name}
    assert converted[0] < 100  # of 200: it did not read on


def test_order_and_values_do_not_depend_on_threads(tmp_path: Path) -> None:
    """Against the same steps one after the other."""
    from tinyhd.inference.predict import predict_frames, predict_video
    from tinyhd.video.reader import read_frames

    source = makers.plain(tmp_path, 61).path
    beside = list(predict_video(source, GrayModel()))
    alone = list(predict_frames(read_frames(source), GrayModel()))
    assert [p.frame.index for p in beside] == [p.frame.index for p in alone] == list(range(61))
    for a, b in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(a.map, b.map)
        assert a.is_cut == b.is_cut
