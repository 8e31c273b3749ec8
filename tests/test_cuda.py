"""The CUDA path: order, slots, graphs and errors with a made GPU; the network's fitness for graphs; streams of batches.

With a real GPU the same maps are compared with PyTorch's too.
"""

import copy
import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from test_predict import Numbers, made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyhd import backends, cuda
from tinyhd.backends import TorchMaps, open_backend
from tinyhd.convert import inference_copy
from tinyhd.cuda import ConstantsOn, CudaMaps
from tinyhd.errors import InputError, OptionError
from tinyhd.model import TinyHD, TinyHDConfig
from tinyhd.predict import predict_frames


@pytest.fixture(scope="module")
def tiny() -> TinyHD:
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):  # as it starts, all clips get nearly the same maps
            value.fill_(0.2)
    assert (model(batch(0)).fused - model(batch(1)).fused).abs().max() > 0.1
    return model


def batch(number: int, size: int = 1) -> Tensor:
    return torch.randn(size, 3, 16, 192, 256, generator=torch.Generator().manual_seed(number))


class MadeDevice:
    """In place of a GPU: what is queued in a stream is done as late as possible, with the memory as it is then."""

    def __init__(self, device: torch.device) -> None:
        self.streams: list[list[Callable[[], None]]] = []
        self.captures: list[int] = []
        self.capture_error: RuntimeError | None = None
        self.waits = 0

    def stream(self) -> list[Callable[[], None]]:
        self.streams.append([])
        return self.streams[-1]

    def pinned(self, shape: Sequence[int]) -> Tensor:
        return torch.full(tuple(shape), torch.nan)

    def empty(self, stream: object, shape: Sequence[int]) -> Tensor:
        assert any(stream is known for known in self.streams)
        return torch.full(tuple(shape), torch.nan)

    def captured(self, stream: object, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self.capture_error is not None:
            raise self.capture_error
        result = compute()
        self.captures.append(len(result))

        def replay() -> Tensor:
            return result.copy_(compute())

        return replay

    def submit(self, stream: list[Callable[[], None]], work: Callable[[], None]) -> Callable[[], None]:
        stream.append(work)

        def wait() -> None:
            self.waits += 1
            while work in stream:
                stream.pop(0)()

        return torch.inference_mode()(wait)


@pytest.fixture
def maps(tiny: TinyHD, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cuda, "_Device", MadeDevice)
    return CudaMaps(tiny)


# ---- batches in flight


def test_the_same_maps_as_pytorch(tiny: TinyHD, maps: Any) -> None:
    found = maps(batch(0, 2))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, TorchMaps(tiny)(batch(0, 2)), rtol=0, atol=1e-5)
    assert str(maps) == "torch on cpu, float32"
    assert maps.maps_per_clip == 16


def test_half_precisions_are_what_autocast_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_Device", MadeDevice)
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=2)).eval()
    found = CudaMaps(model, "bfloat16")(batch(0))
    assert found.dtype == torch.float32
    full, half = TorchMaps(model)(batch(0)), TorchMaps(model, "bfloat16")(batch(0))
    assert not torch.equal(found, full)
    assert (found - full).abs().max() < 2 * (half - full).abs().max()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 4, 0, 3, 2)])
def test_results_may_be_taken_in_any_order(tiny: TinyHD, maps: Any, order: tuple[int, ...]) -> None:
    """Five started, though there is room for two: each keeps its own maps."""
    expected = [TorchMaps(tiny)(batch(k)) for k in range(5)]
    results = [maps.start(batch(k)) for k in range(5)]
    for k in order:
        torch.testing.assert_close(results[k](), expected[k], rtol=0, atol=1e-5)
        assert results[k]() is results[k]()  # asked again


def test_starting_waits_for_nothing_while_there_is_room(maps: Any) -> None:
    given = batch(0)
    first = maps.start(given)
    given.fill_(0)  # the caller's again
    maps.start(batch(1))
    assert maps._gpu.waits == 0
    assert [len(stream) for stream in maps._gpu.streams] == [1, 1]
    maps.start(batch(2))  # into the first one's place
    assert maps._gpu.waits == 1
    kept = first().clone()
    assert maps._gpu.waits == 1
    torch.testing.assert_close(kept, maps(batch(0)))


def test_a_result_that_nobody_takes_is_let_go(maps: Any) -> None:
    forgotten = maps.start(batch(0))
    reference = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert reference() is None
    first = maps(batch(0))
    for _ in range(3):
        assert torch.equal(maps(batch(0)), first)


# ---- graphs


def test_a_graph_for_each_slot_and_the_latest_batch_sizes(tiny: TinyHD, maps: Any) -> None:
    for _ in range(3):
        maps(batch(0, 2))
    assert maps._gpu.captures == [2, 2]
    for size in (1, 1, 2, 2, 3, 3):
        maps(batch(0, size))
    assert maps._gpu.captures == [2, 2, 1, 1, 3, 3]
    for size in (2, 2, 1, 1):  # 2 was used after 1, which made way for 3
        torch.testing.assert_close(maps(batch(5, size)), TorchMaps(tiny)(batch(5, size)), rtol=0, atol=1e-5)
    assert maps._gpu.captures == [2, 2, 1, 1, 3, 3, 1, 1]


def test_without_graphs_it_says_so_once(tiny: TinyHD, maps: Any, caplog: pytest.LogCaptureFixture) -> None:
    maps._gpu.capture_error = RuntimeError("operation not permitted when stream is capturing.\nCompile with ...")
    results = [maps.start(batch(k, size)) for k, size in enumerate((1, 1, 2, 1))]
    for k, size in enumerate((1, 1, 2, 1)):
        torch.testing.assert_close(results[k](), TorchMaps(tiny)(batch(k, size)), rtol=0, atol=1e-5)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.WARNING,
            "CUDA graphs do not work here (operation not permitted when stream is capturing): computing without "
            "them, which is slower.",
        )
    ]
    assert len(maps._gpu.streams) == 3  # the one with the failed capture is not used again
    assert not maps._gpu.streams[0]


class HostTensors(TorchDispatchMode):
    """Notes the operations that take tensors in main memory, or give some."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and value.device.type == "cpu":
                self.found.add(str(function))
        return result


@pytest.mark.parametrize(
    "config", [TinyHDConfig(), TinyHDConfig(False, 4), TinyHDConfig(output_stride=2), TinyHDConfig(output_stride=4)]
)
def test_the_network_can_be_captured(config: TinyHDConfig) -> None:
    """Nothing on its way comes from main memory or goes there."""
    network = inference_copy(TinyHD(config).eval(), plain=False).to("meta")
    seen = HostTensors()
    with torch.inference_mode(), seen, ConstantsOn(torch.device("meta")):
        network(torch.empty(2, 3, 16, 192, 256, device="meta"))
    assert not seen.found


def test_constants_are_what_they_were(tiny: TinyHD) -> None:
    with torch.inference_mode():
        expected = tiny(batch(0)).fused
        with ConstantsOn(torch.device("cpu")):
            assert torch.equal(tiny(batch(0)).fused, expected)


# ---- errors


def test_too_little_memory(tiny: TinyHD, maps: Any) -> None:
    """One sentence, and smaller batches still work."""
    kept = maps.start(batch(0))
    maps._gpu.capture_error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    with pytest.raises(OptionError, match="too little memory for batches of 64 clips; use a smaller batch size"):
        maps.start(batch(0).expand(64, -1, -1, -1, -1))
    maps._gpu.capture_error = None
    torch.testing.assert_close(kept(), TorchMaps(tiny)(batch(0)), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps(batch(1)), TorchMaps(tiny)(batch(1)), rtol=0, atol=1e-5)


def test_an_error_belongs_to_its_batch(tiny: TinyHD, maps: Any) -> None:
    maps(batch(0)), maps(batch(0))  # the graphs are there
    good = maps._network.forward

    def fail(_: Tensor) -> Any:
        maps._network.forward = good
        raise RuntimeError("an illegal memory access was encountered")

    first, second = maps.start(batch(1)), maps.start(batch(2))
    maps._network.forward = fail
    third = maps.start(batch(3))  # finishes the first
    torch.testing.assert_close(third(), TorchMaps(tiny)(batch(3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(second(), TorchMaps(tiny)(batch(2)), rtol=0, atol=1e-5)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="illegal"):
            first()


def test_mistakes(tiny: TinyHD, maps: Any) -> None:
    with pytest.raises(OptionError, match="must be one of"):
        CudaMaps(tiny, "float64")
    with pytest.raises(ValueError, match=r"not \(1, 3, 8, 192, 256\)"):
        maps(batch(0)[:, :, :8])


def test_it_is_taken_for_cuda_devices(tiny: TinyHD, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda(TinyHD):
        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            yield type("Parameter", (), {"device": torch.device("cuda:0")})

    monkeypatch.setattr(cuda, "CudaMaps", lambda model, precision: f"CudaMaps {precision}")
    assert open_backend(OnCuda(tiny.config), "auto", "float16") == "CudaMaps float16"
    assert isinstance(open_backend(copy.deepcopy(tiny), "torch"), backends.TorchMaps)


# ---- streams of batches


class Started(Numbers):
    """`Numbers` with `start`; notes what is started and what is taken."""

    def __init__(self, maps_per_clip: int = 16) -> None:
        super().__init__(maps_per_clip)
        self.events: list[str] = []
        self.errors: dict[str, Exception] = {}

    def start(self, clips: Tensor) -> Callable[[], Tensor]:
        number = sum("start" in event for event in self.events)
        self._note(f"start {number}")
        result = super().__call__(clips)

        def take() -> Tensor:
            self._note(f"take {number}")
            return result

        return take

    def _note(self, event: str) -> None:
        self.events.append(event)
        if event in self.errors:
            raise self.errors[event]

    def __call__(self, clips: Tensor) -> Tensor:
        raise AssertionError("start is there")


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("maps_per_clip", [16, 1])
def test_one_batch_stays_in_flight(maps_per_clip: int, batch_size: int) -> None:
    for count in (0, 1, 16, 17, 70):
        function = Started(maps_per_clip)
        predictions = list(predict_frames(made(count, 30), function, batch_size=batch_size))
        assert [p.frame.index for p in predictions] == list(range(count))
        for number, prediction in enumerate(predictions):
            np.testing.assert_allclose(prediction.map, number + 1, rtol=1e-4)
        batches = len(function.batches)
        expected = [f"{what} {k + (what == 'start')}" for k in range(batches - 1) for what in ("start", "take")]
        assert function.events == (["start 0", *expected, f"take {batches - 1}"] if batches else [])


@pytest.mark.parametrize(("maps_per_clip", "most"), [(16, 32), (1, 11)])
def test_frames_held_grow_by_a_batch(maps_per_clip: int, most: int) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def source() -> Iterator[Any]:
        for frame in made(70, 30):
            alive.add(frame)
            yield frame

    held = 0
    for prediction in predict_frames(source(), Started(maps_per_clip)):
        held = max(held, len(alive))
        del prediction
    assert held <= most


@pytest.mark.parametrize("event", ["start 0", "start 2", "take 0", "take 1", "take 4"])
def test_errors_come_through_after_what_was_before(event: str) -> None:
    function = Started()
    function.errors[event] = OptionError("too little memory")
    given: list[int] = []
    with pytest.raises(OptionError, match="too little"):
        given.extend(prediction.frame.index for prediction in predict_frames(made(70), function))
    before = int(event[-1]) - ("start" in event)
    assert given == list(range(12 * max(0, before)))
    assert started(function) == taken(function) | ({int(event[-1])} if "start" in event else set())


def started(function: Started) -> set[int]:
    return {int(event[-1]) for event in function.events if "start" in event}


def taken(function: Started) -> set[int]:
    return {int(event[-1]) for event in function.events if "take" in event}


def test_nothing_stays_in_flight_when_the_caller_stops() -> None:
    function = Started()
    predictions = predict_frames(made(70), function)
    next(predictions)
    assert started(function) - taken(function) == {1}
    function.errors["take 1"] = RuntimeError("nobody hears of this")
    predictions.close()  # type: ignore[attr-defined]
    assert started(function) == taken(function) == {0, 1}


def test_nor_when_the_source_fails() -> None:
    def source() -> Iterator[Any]:
        yield from made(20)
        raise InputError("the disk is gone")

    function = Started()
    with pytest.raises(InputError, match="disk"):
        list(predict_frames(source(), function))
    assert started(function) == taken(function) == {0}


# ---- with a GPU

if torch.cuda.is_available():  # not a skip: there is nothing to require elsewhere

    @pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("multi_output", [True, False])
    def test_on_a_gpu(precision: str, multi_output: bool, caplog: pytest.LogCaptureFixture) -> None:
        torch.manual_seed(0)
        model = TinyHD(TinyHDConfig(multi_output, 4)).eval().cuda()
        function = open_backend(model, "torch", precision)
        assert isinstance(function, CudaMaps)
        reference = TorchMaps(copy.deepcopy(model).cpu())
        sizes = (1, 2, 2, 1, 3, 1, 2)
        results = [function.start(batch(k, size)) for k, size in enumerate(sizes)]
        for k, size in enumerate(sizes):
            atol = 1e-3 if precision == "float32" else 0.03  # TF32
            torch.testing.assert_close(results[k](), reference(batch(k, size)), rtol=0, atol=atol)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # graphs work
