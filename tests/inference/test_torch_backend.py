"""PyTorch as a backend: GPUs that are out of memory or fail, played by networks that raise."""

from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeBackend

from tinyhd.errors import OptionError
from tinyhd.inference import backends, torch_backend
from tinyhd.inference.backends import open_backend
from tinyhd.inference.torch_backend import DeviceError, FallbackBackend, TorchBackend, fingerprint
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD, TinyHDOutput
from tinyhd.options import InferenceOptions

CONFIG = TinyHDConfig(True, 4, ("d2",), output_stride=4)


@pytest.fixture(scope="module")
def model() -> TinyHD:
    torch.manual_seed(0)
    return TinyHD(CONFIG).eval()


@pytest.fixture
def clips() -> np.ndarray:
    numbers = np.arange(1, 8, dtype=np.float32)[:, None, None, None, None]
    return np.broadcast_to(numbers, (7, 3, 16, 192, 256))


class StubNetwork(torch.nn.Module):
    """Gives the mean of each clip as its maps, or raises: where a batch has more than `room` clips for want of memory,
    and at the calls in `failures` what stands there."""

    def __init__(self, room: int = 100, failures: dict[int, Exception] | None = None) -> None:
        super().__init__()
        self.room, self.failures = room, failures or {}
        self.batches: list[int] = []

    def forward(self, clips: torch.Tensor) -> TinyHDOutput:
        self.batches.append(len(clips))
        if len(self.batches) in self.failures:
            raise self.failures[len(self.batches)]
        if len(clips) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return TinyHDOutput(clips.mean((1, 2, 3, 4)).view(-1, 1, 1, 1).expand(-1, 16, 48, 64))


def on_gpu(model: TinyHD, network: StubNetwork, monkeypatch: pytest.MonkeyPatch) -> TorchBackend:
    """A backend that takes itself for one on a GPU, with another network; it computes on the CPU."""
    backend = TorchBackend(model)
    backend.model = network  # type: ignore[assignment]
    monkeypatch.setattr(backend, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **options: self)
    return backend


def check(maps: np.ndarray) -> None:
    assert maps.shape == (7, 16, 48, 64)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[:, 0, 0, 0], np.arange(1, 8))


def test_maps_are_those_of_the_network(model: TinyHD) -> None:
    clips = np.random.default_rng(0).standard_normal((2, 3, 16, 192, 256), np.float32)
    backend = TorchBackend(model)
    with torch.inference_mode():
        expected = model(torch.from_numpy(clips)).fused.numpy()
    np.testing.assert_allclose(backend(clips), expected, atol=1e-5)
    assert backend.start is None  # a CPU does not compute while something else is done
    assert backend.batch_size == 1
    assert backend.model_hash == fingerprint(model)


def test_fingerprint_is_of_weights_and_config(model: TinyHD) -> None:
    assert fingerprint(model) == TorchBackend(model).model_hash
    assert fingerprint(model) != fingerprint(TinyHD(CONFIG))
    other = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4, sampling_rate=15))
    other.load_state_dict(model.state_dict())
    assert fingerprint(model) != fingerprint(other)


@pytest.mark.parametrize("precision", ["float64", "float16"])
def test_precisions_that_a_cpu_does_not_have(model: TinyHD, precision: str) -> None:
    with pytest.raises(OptionError, match="precision"):
        TorchBackend(model, precision)


# ---- out of memory


@pytest.mark.parametrize(("room", "expected"), [(7, [7]), (3, [7, 3, 3, 1]), (1, [7, 3, 1, 1, 1, 1, 1, 1, 1])])
def test_out_of_memory_halves_the_batch(
    model: TinyHD,
    clips: np.ndarray,
    room: int,
    expected: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = StubNetwork(room)
    backend = on_gpu(model, network, monkeypatch)
    check(backend(clips))
    assert network.batches == expected
    assert len(caplog.messages) == {7: 0, 3: 1, 1: 2}[room]
    network.batches.clear()
    check(backend(clips))  # it has learned
    assert max(network.batches) <= room


def test_out_of_memory_for_one_clip(model: TinyHD, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = on_gpu(model, StubNetwork(0), monkeypatch)
    with pytest.raises(DeviceError, match=r"cuda:0 is out of memory; use another device"):
        backend(clips)


def test_memory_that_runs_out_while_waiting(model: TinyHD, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs may tell of it when the maps are fetched."""
    network = StubNetwork()
    backend = on_gpu(model, network, monkeypatch)
    assert backend.start is not None
    wait = backend.start(clips)
    fetch, calls = torch.Tensor.cpu, iter([True])

    def fails_once(tensor: torch.Tensor) -> torch.Tensor:
        if next(calls, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fetch(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", fails_once)
    check(wait())
    assert network.batches == [7, 3, 3, 1]


def test_a_cpu_without_memory(model: TinyHD, clips: np.ndarray) -> None:
    backend = TorchBackend(model)
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    backend.model = StubNetwork(failures={1: error})  # type: ignore[assignment]
    with pytest.raises(OptionError, match="smaller batch size"):
        backend(clips)


# ---- a GPU that fails


def test_a_gpu_error_is_one_sentence(model: TinyHD, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
    backend = on_gpu(model, StubNetwork(failures={1: error}), monkeypatch)
    with pytest.raises(DeviceError, match=r"^device cuda:0 has failed \(CUDA error: an illegal .* use --device cpu\.$"):
        backend(clips)


def test_on_a_cpu_errors_are_bugs(model: TinyHD, clips: np.ndarray) -> None:
    backend = TorchBackend(model)
    backend.model = StubNetwork(failures={1: RuntimeError("a bug")})  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        backend(clips)


class Second(FakeBackend):
    """The CPU in the place of a GPU that has failed."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.batches.append(len(clips))
        return np.broadcast_to(clips.mean((1, 2, 3, 4))[:, None, None, None], (len(clips), 16, 48, 64))


@pytest.mark.parametrize("when", ["launch", "wait", "memory"])
def test_auto_goes_on_on_the_cpu(
    model: TinyHD,
    clips: np.ndarray,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = RuntimeError("CUDA error: device-side assert triggered")
    network = StubNetwork(0 if when == "memory" else 100, {2: failed} if when == "launch" else None)
    second = Second()
    backend = FallbackBackend(on_gpu(model, network, monkeypatch), lambda: second)
    if when != "memory":
        check(backend(clips))
        assert second.batches == []
    first_wait = backend.start(clips)
    if when == "wait":
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (_ for _ in ()).throw(failed))
    second_wait = backend.start(clips)  # one batch in flight
    check(first_wait())
    check(second_wait())
    check(backend(clips))
    assert second.batches == [7, 7, 7]
    (message,) = [message for message in caplog.messages if message.endswith("Going on on the CPU.")]
    assert "use --device cpu" not in message


# ---- the choice


@pytest.mark.parametrize(
    ("options", "precision", "falls_back"),
    [
        ({}, "float16", True),
        ({"precision": "float32"}, "float32", True),
        ({"device": "cuda"}, "float32", False),
        ({"device": "cuda", "precision": "bfloat16"}, "bfloat16", False),
    ],
)
def test_what_a_gpu_is_asked_for(
    options: dict[str, Any], precision: str, falls_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_latest", None)
    monkeypatch.setattr(backends, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch_backend, "resolve_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(torch_backend, "on_device", lambda model, device: model.to("meta"))
    asked: list[str] = []

    class Asked(TorchBackend):
        def __init__(self, model: TinyHD, precision: str, name: str, hash: str) -> None:
            asked.append(precision)
            super().__init__(model, precision, name, hash)

    monkeypatch.setattr(torch_backend, "TorchBackend", Asked)
    opened = open_backend(InferenceOptions(**options))
    assert asked == [precision]
    assert isinstance(opened, FallbackBackend) == falls_back
    assert opened.batch_size == 8  # type: ignore[attr-defined]


def test_a_model_that_does_not_fit_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "_latest", None)
    monkeypatch.setattr(backends, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch_backend, "resolve_device", lambda device: torch.device("cuda", 0))

    def refuse(model: TinyHD, device: torch.device) -> TinyHD:
        raise OptionError(f"the model cannot be put on device {device}: CUDA out of memory.")

    monkeypatch.setattr(torch_backend, "on_device", refuse)
    opened = open_backend(InferenceOptions(precision="float32"))
    assert isinstance(opened, backends.OpenVinoBackend)
    assert any(message.endswith("Going on on the CPU.") for message in caplog.messages)
    with pytest.raises(OptionError, match="cannot be put on device cuda:0"):
        open_backend(InferenceOptions(device="cuda"))
