"""The fused kernels compute what the network's own modules do, for every shape, stride and number of threads."""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba.core.errors import TypingError
from torch import Tensor

from tinyhd import fused, kernels
from tinyhd.convert import inference_copy
from tinyhd.fused import FusedBlock, FusedPointwise, FusedStem, Memory, Planar, Workers, fused_network
from tinyhd.layers import ConvNorm, InvertedResidual, pixel_shuffle, upsample_space, upsample_time
from tinyhd.model import TinyHD, TinyHDConfig
from tinyhd.simd import compiled, exp, load, store


def with_statistics(module: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, with BatchNorm that does something."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.5, 0.5)
    return module.eval()


@pytest.fixture(autouse=True)
def memory_full_of_rubbish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is mostly zeros, which hides what a kernel has not written; NaN would vanish in ReLU6."""
    take = Memory.take

    def filled(memory: Memory, *shape: int) -> np.ndarray:
        result = take(memory, *shape)
        result.fill(1e30)
        return result

    monkeypatch.setattr(Memory, "take", filled)


@pytest.fixture
def everything_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the threads, however little it is."""
    monkeypatch.setattr(fused, "_FEW_NUMBERS", 0)
    monkeypatch.setattr(fused, "_FEW_PRODUCTS", 0)


def planar(x: Tensor, threads: int = 2) -> Planar:
    return Planar(Workers(threads), x[0].numpy().copy())


# ---- blocks


@pytest.mark.usefixtures("everything_is_shared")
@pytest.mark.parametrize("groups", [(32, 16), (4,)])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("channels", "frame", "options"),
    [
        ((8, 32, 8), (4, 24, 32), {"residual": True}),
        ((8, 32, 8), (2, 6, 8), {"residual": True}),  # small: threads share hidden channels
        ((7, 14, 1), (16, 48, 64), {}),  # decoders of reduced models have odd numbers of channels
        ((2, 4, 2), (16, 96, 128), {}),
        ((16, 16, 8), (8, 40, 64), {"expand": False}),
        ((6, 36, 10), (8, 40, 64), {"stride": (1, 2, 2)}),
        ((6, 36, 10), (8, 40, 64), {"stride": (2, 2, 2)}),
        ((6, 36, 10), (4, 40, 24), {"stride": (2, 1, 1)}),
        ((6, 36, 10), (2, 12, 16), {"stride": (1, 2, 2), "kernel_size": (2, 3, 3), "padding": (0, 1, 1)}),
        ((6, 36, 10), (1, 6, 8), {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}),
        ((6, 12, 4), (1, 12, 16), {}),  # one frame, of which the kernel meets nothing before and after
        ((6, 12, 4), (3, 7, 40), {}),
        ((6, 12, 4), (2, 2, 16), {"stride": (2, 2, 2)}),
        ((8, 8, 4), (4, 14, 48), {"expand": False, "stride": (2, 2, 2)}),
        ((6, 6, 3), (4, 8, 16), {"expand": False}),  # hidden channels that only fill up fours
        ((6, 12, 4), (2, 1, 8), {}),
        ((6, 12, 4), (2, 3, 9), {}),  # no rows of eight: by PyTorch
    ],
)
def test_block(
    monkeypatch: pytest.MonkeyPatch,
    groups: tuple[int, ...],
    threads: int,
    channels: tuple[int, int, int],
    frame: tuple[int, int, int],
    options: dict,
) -> None:
    monkeypatch.setattr(fused, "_GROUPS", groups)
    torch.manual_seed(0)
    inputs, hidden, outputs = channels
    block = with_statistics(InvertedResidual(inputs, hidden, outputs, **options))
    x = torch.randn(1, inputs, *frame) * 3  # so that ReLU6 cuts at both ends
    with torch.inference_mode():
        expected = block(x)
        fused_block = FusedBlock(inference_copy(block, plain=True))
        if frame[2] % 8 == 0:  # that it is our kernels which compute
            monkeypatch.setattr(fused_block, "_plain", ())
        found = fused_block(planar(x, threads))
    assert found.shape == tuple(expected.shape)
    torch.testing.assert_close(torch.from_numpy(found.values())[None], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("frame", [(16, 32, 64), (2, 2, 16), (4, 50, 256), (4, 6, 20)])
def test_stem(threads: int, frame: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = with_statistics(ConvNorm(3, 8, (3, 3, 3), (2, 2, 2), (1, 1, 1)))
    x = torch.randn(1, 3, *frame) * 3
    with torch.inference_mode():
        expected = layer(x)
        found = FusedStem(inference_copy(layer, plain=True), Workers(threads))(x)
    torch.testing.assert_close(torch.from_numpy(found.values())[None], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "frame"), [((12, 8), (1, 6, 8)), ((5, 7), (2, 4, 5)), ((5, 3), (1, 1, 3))])
def test_pointwise(channels: tuple[int, int], frame: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = with_statistics(ConvNorm(*channels))
    x = torch.randn(1, channels[0], *frame) * 3
    with torch.inference_mode():
        expected, found = layer(x), FusedPointwise(inference_copy(layer, plain=True))(planar(x))
    torch.testing.assert_close(torch.from_numpy(found.values())[None], expected, rtol=1e-4, atol=1e-4)


def test_bands_cover_all_rows_once() -> None:
    for height, largest, count in itertools.product((1, 2, 5, 48, 96, 191), (-1, 1, 7, 50, 500), (1, 2, 3, 8)):
        bands = fused._bands(height, largest, count)
        assert [row for first, last in bands for row in range(first, last)] == list(range(height))
        assert max(last - first for first, last in bands) <= max(1, largest)


# ---- what lies between them


@pytest.mark.usefixtures("everything_is_shared")
@pytest.mark.parametrize("space", [lambda x: x, pixel_shuffle, upsample_space])
@pytest.mark.parametrize("time", [lambda x: x, upsample_time])
@pytest.mark.parametrize("frame", [(4, 6, 8), (1, 5, 9), (2, 1, 1)])
@pytest.mark.parametrize("adds", [False, True])
def test_enlarging(space, time, frame: tuple[int, int, int], adds: bool) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(1, 8, *frame)
    expected = time(space(x))
    found = time(space(planar(x)))
    assert found.shape == tuple(expected.shape)
    if adds:
        skip = torch.randn(expected.shape)
        expected, found = expected + skip, planar(skip) + found
    torch.testing.assert_close(torch.from_numpy(found.values())[None], expected, rtol=1e-5, atol=1e-5)


def test_enlarging_twice() -> None:
    x = torch.randn(1, 16, 2, 3, 4)
    for f in (lambda x: upsample_space(pixel_shuffle(x)), lambda x: upsample_time(upsample_time(x))):
        torch.testing.assert_close(torch.from_numpy(f(planar(x)).values())[None], f(x), rtol=1e-5, atol=1e-5)


def test_concatenating_and_halving() -> None:
    a, b = torch.randn(1, 3, 2, 8, 12), torch.randn(1, 8, 2, 4, 6)
    expected = F.avg_pool3d(torch.cat([a, pixel_shuffle(b)], 1), (1, 2, 2))
    found = F.avg_pool3d(torch.cat([planar(a), pixel_shuffle(planar(b))], 1), (1, 2, 2))
    torch.testing.assert_close(torch.from_numpy(found.values())[None], expected)


def test_sigmoid_keeps_small_values() -> None:
    """Saliency is small nearly everywhere: what counts is the relative error."""
    x = torch.linspace(-86, 86, 1 * 3 * 5 * 7 * 11).view(1, 3, 5, 7, 11)
    torch.testing.assert_close(torch.sigmoid(planar(x)), torch.sigmoid(x.double()).float(), rtol=1e-6, atol=0)
    extreme = torch.tensor([-1e30, -200, 200, 1e30, 0, -0.0, 1, -1]).view(1, 1, 1, 2, 4)
    found = torch.sigmoid(planar(extreme)).flatten()
    assert found[:2].max() < 1e-37
    assert found[2:5].tolist() == [1, 1, 0.5]


@compiled
def _exp_of(x, y):  # type: ignore[no-untyped-def]
    for i in range(0, x.size, 8):
        store(y, i, exp(load(x, i)))


def test_exp() -> None:
    x = np.linspace(-86.9, 87.9, 80_000, dtype=np.float32)
    y = np.empty_like(x)
    _exp_of(x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(float)), rtol=3e-7)


# ---- the network

CONFIGS = [
    TinyHDConfig(multi_output, reduction, output_stride=stride)
    for multi_output, reduction, stride in itertools.product((True, False), (1, 2, 4), (1, 2, 4))
]


@pytest.mark.parametrize(
    "config", [*CONFIGS, TinyHDConfig(True, 4, ("d1",)), TinyHDConfig(False, 4, ("d2", "d3"), ("d3", "d2"))], ids=str
)
@pytest.mark.parametrize("size", [256, 96])  # all by kernels; some by PyTorch
def test_network(config: TinyHDConfig, size: int) -> None:
    torch.manual_seed(0)
    model = TinyHD(config).train()
    clip = torch.randn(1, 3, 16, 32, size)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.momentum = 1  # takes this clip's statistics: then what is wrong anywhere is seen in the maps
            part.bias.data.uniform_(-0.5, 0.5)
    with torch.inference_mode():
        model(torch.cat([clip, torch.randn_like(clip)]))
        expected, found = model.eval()(clip), fused_network(model, 2)(clip)
    assert expected.fused.std() > 0.01  # float32 is off by up to 2e-5 here, PyTorch as well as the kernels
    torch.testing.assert_close(found.fused, expected.fused, rtol=1e-3, atol=2e-4)
    for name, maps in expected.decoders.items():
        torch.testing.assert_close(found.decoders[name], maps, rtol=1e-3, atol=2e-4)


def test_the_model_stays_as_it_is() -> None:
    model = with_statistics(TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused_network(model, 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(isinstance(module, ConvNorm) for module in model.modules())


@pytest.mark.parametrize("threads", [1, 2])
def test_clip_after_clip(threads: int) -> None:
    """Memory is used again, but never what the caller has been given."""
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d1", "d2", "d3"), output_stride=4)).eval()
    network = fused_network(model, threads)
    stem = network.encoder.layers[0]
    assert isinstance(stem, FusedStem)
    memory = stem._workers.memory
    clips = torch.randn(3, 1, 3, 16, 32, 256)
    with torch.inference_mode():
        first = [network(clip).fused for clip in clips]
        kept = [maps.clone() for maps in first]
        size = sum(map(len, memory._blocks))
        again = [network(clip).fused for clip in clips]
    assert not torch.equal(first[0], first[1])
    for a, b, c in zip(first, kept, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    grown = sum(map(len, memory._blocks))
    assert grown == size if threads == 1 else grown < 1.5 * size  # parts may overlap in time, or not


# ---- memory


def test_memory_is_used_again() -> None:
    memory = Memory()
    place = memory.take(2, 500).ctypes.data
    assert memory.take(10, 100).ctypes.data == place
    assert memory.take(7).ctypes.data == place
    assert len(memory._blocks) == 2  # one of them of size 0


@pytest.mark.parametrize(
    "held", [lambda a: a, lambda a: a[3:5, 7:], lambda a: a.ravel(), lambda a: torch.from_numpy(a)]
)
def test_memory_that_is_held_stays(held) -> None:  # type: ignore[no-untyped-def]
    memory = Memory()
    value = held(memory.take(20, 30))
    value[:] = 1
    others = [memory.take(600) for _ in range(3)]
    for other in others:
        other[:] = 2
    assert value.sum() == value.size if isinstance(value, np.ndarray) else value.sum() == value.numel()
    assert len({other.ctypes.data for other in others}) == 3


def test_memory_starts_at_lines_of_the_cache() -> None:
    memory = Memory()
    assert all(memory.take(size).ctypes.data % 64 == 0 for size in (1, 77, 1000, 100_000))


def test_larger_memory_takes_the_place_of_smaller() -> None:
    memory = Memory()
    held = memory.take(1000)
    for size in range(2000, 3000, 100):
        memory.take(size)
    assert len(memory._blocks) == 3
    del held


def test_memory_for_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that ask in the same moment get different places."""
    memory = Memory()
    first, second = memory.take(100), memory.take(100)
    del first, second  # two blocks that nobody holds
    references = Memory._references

    def slowly(memory: Memory, k: int) -> int:
        count = references(memory, k)
        time.sleep(0.01)
        return count

    monkeypatch.setattr(Memory, "_references", slowly)
    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(lambda _: memory.take(100), range(4)))
    assert len({array.ctypes.data for array in arrays}) == 4


# ---- threads


def test_little_work_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2)
    monkeypatch.setattr(workers._pool, "submit", lambda work: pytest.fail("a thread was woken"))
    x = Planar(workers, np.zeros((8, 2, 12, 16), np.float32))
    upsample_space(x).values()
    FusedBlock(inference_copy(InvertedResidual(8, 32, 8).eval(), plain=True))(x)


def test_workers_run_every_part_once() -> None:
    for count, size in itertools.product((1, 2, 3), (0, 1, 2, 17)):
        done: list[int] = []
        Workers(count)([partial(done.append, k) for k in range(size)])
        assert sorted(done) == list(range(size))


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_what_a_part_raises_is_raised(bad: int) -> None:
    def part(k: int) -> None:
        if k == bad:
            raise ArithmeticError(k)

    workers = Workers(2)
    with pytest.raises(ArithmeticError):
        workers([partial(part, k) for k in range(6)])
    done: list[int] = []
    workers([lambda: done.append(1)] * 4)
    assert len(done) == 4


def test_kernels_release_the_interpreter() -> None:
    """Otherwise threads would be no use: this one goes on while a kernel runs."""
    x = np.zeros((64, 8, 96, 128), np.float32)
    out = np.empty((64, 16, 192, 256), np.float32)
    arguments = x, kernels.BILINEAR, True, np.empty((0, 0, 0, 0), np.float32), out, (0, 1024)
    kernels.grow(*arguments)  # compiled from here on
    times: list[float] = []
    thread = threading.Thread(
        target=lambda: (times.append(time.perf_counter()), kernels.grow(*arguments), times.append(time.perf_counter()))
    )
    gap, last, running = 0.0, time.perf_counter(), True
    thread.start()
    while running:
        running = thread.is_alive()
        now = time.perf_counter()
        gap, last = max(gap, now - last), now
    assert gap < 0.5 * (times[1] - times[0])


def test_threads_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends, or in a forked process: the caller does it all."""
    workers = Workers(3)
    done: list[int] = []
    workers([partial(done.append, k) for k in range(3)])
    for submit in (lambda work: Future(), lambda work: (_ for _ in ()).throw(RuntimeError("shutdown"))):
        done.clear()
        monkeypatch.setattr(workers._pool, "submit", submit)
        workers([partial(done.append, k) for k in range(9)])
        assert done == list(range(9))


def test_without_a_place_for_compiled_code() -> None:
    """A read-only installation of a user without a home compiles anew each time."""
    code = """
from numba.core.caching import CacheImpl
for kind in (CacheImpl, *CacheImpl.__subclasses__()):
    kind._locator_classes = []
from tinyhd.simd import compiled
@compiled
def double(x):
    return 2 * x
print(double(21))
"""
    root = Path(fused.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "42"


def test_damaged_files_of_compiled_code(tmp_path: Path) -> None:
    code = """
from tinyhd.simd import compiled, give_up_cache
@compiled
def double(x):
    return 2 * x
try:
    print(double(21))
except EOFError:
    give_up_cache()
    print("damaged", double(21))
"""
    (tmp_path / "script.py").write_text(code)
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(fused.__file__).parents[1]),
    }

    def run() -> str:
        command = [sys.executable, "script.py"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
        return done.stdout.strip()

    assert run() == "42"
    indices = list((tmp_path / "cache").rglob("*.nbi"))
    assert len(indices) == 1
    indices[0].write_bytes(b"")
    assert run() == "damaged 42"


def test_arrays_of_other_kinds_are_refused() -> None:
    for wrong in (np.zeros(8), np.zeros((8, 8), np.float32), np.zeros(16, np.float32)[::2]):
        with pytest.raises(TypingError, match="contiguous float32"):
            _exp_of(wrong, np.zeros(8, np.float32))
