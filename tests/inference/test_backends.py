"""Every backend gives the published network's maps, the right one is taken, and PyTorch only where it is needed."""

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from tinyhd.errors import OptionError, WeightsError
from tinyhd.inference import backends
from tinyhd.inference.backends import OpenVinoBackend, fixed_clip, open_backend
from tinyhd.inference.torch_backend import TorchBackend
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.registry import MODELS, find_model
from tinyhd.network.weights import load_model, save_model
from tinyhd.options import InferenceOptions

HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model's file, and the cache folder that opening it has left."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4, display_scale=0.3, sampling_rate=15)).eval()
    for name, value in model.state_dict().items():  # BatchNorm that does something
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    save_model(model, folder / "tiny.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYHD_CACHE", str(folder / "cache"))
        OpenVinoBackend(find_model(folder / "tiny.safetensors"), "float32")
    return folder


@pytest.fixture
def tiny_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small model's file, with such a cache folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "cache" / "compiled")  # these are for a path
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "tiny.safetensors"


@pytest.fixture(autouse=True)
def nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_latest", None)


@pytest.fixture
def clips() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 16, 192, 256), np.float32)


def lowest_cc(found: np.ndarray, expected: np.ndarray) -> float:
    maps = zip(found.reshape(-1, *found.shape[2:]), expected.reshape(-1, *expected.shape[2:]), strict=True)
    return min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in maps)


# ---- the same maps


@pytest.mark.parametrize("kind", ["m", "s"])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_backends_reproduce_the_published_clip(backend: str, kind: str, shared: Path, golden_clip: Any) -> None:
    golden, clip = golden_clip
    file = shared / f"weights/d123{kind}_rc4_rc1T.pth"
    maps = open_backend(InferenceOptions(model=str(file), device="cpu", backend=backend, precision="float32"))
    assert maps.maps_per_clip == (16 if kind == "m" else 1)
    found = maps(clip)[0]
    expected = golden[f"d123{kind}_rc4_rc1T.fused"]
    if kind == "m":
        found = found[[0, 5, 10, 15]]
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4, rtol=0)


def test_the_converted_model_of_the_package_is_the_embedded_model(golden_clip: Any) -> None:
    both = np.concatenate([golden_clip[1], fixed_clip()])
    expected = TorchBackend(load_model())(both)
    found = OpenVinoBackend(find_model(), "float32")(both)
    assert found.shape == expected.shape == (2, 16, 48, 64)
    assert abs(found - expected).max() < 0.01 * expected.max()
    assert lowest_cc(found, expected) > 0.9999


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not compute in bfloat16")
def test_bfloat16_agrees_where_the_registry_says_so(golden_clip: Any) -> None:
    with resources.as_file(resources.files("tinyhd") / "models") as models:
        for info in (MODELS[name] for name in ("tinyhd-m", "tinyhd-lite", "tinyhd-clean")):
            assert info.bfloat16_agrees == (backends.bfloat16_agreement(models / info.file) >= 0.9995)
    half, full = (OpenVinoBackend(find_model(), precision)(golden_clip[1]) for precision in ("bfloat16", "float32"))
    assert not np.array_equal(half, full)
    assert lowest_cc(half, full) >= 0.9995


def test_results_are_not_overwritten_by_the_next_call(tiny_file: Path, clips: np.ndarray) -> None:
    backend = OpenVinoBackend(find_model(tiny_file), "float32")
    first = backend(clips[:1])
    kept = first.copy()
    backend(clips[1:])
    np.testing.assert_array_equal(first, kept)


def test_clips_need_not_be_contiguous(tiny_file: Path, clips: np.ndarray) -> None:
    backend = OpenVinoBackend(find_model(tiny_file), "float32")
    turned = np.ascontiguousarray(clips.swapaxes(1, 2)).swapaxes(1, 2)
    np.testing.assert_array_equal(backend(turned), backend(clips))


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_what_a_backend_says_of_its_model(tiny_file: Path, backend: str) -> None:
    opened = open_backend(InferenceOptions(model=str(tiny_file), device="cpu", backend=backend))
    assert (opened.maps_per_clip, opened.map_shape) == (16, (48, 64))
    assert (opened.display_scale, opened.sampling_rate) == (0.3, 15)
    assert opened.model_name == str(tiny_file)
    assert opened.model_hash == find_model(tiny_file).hash


# ---- the choice


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_auto_takes_openvino_on_cpus(tiny_file: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_may_have_gpu", lambda: False)
    opened = open_backend(InferenceOptions(model=str(tiny_file), device=device))
    assert isinstance(opened, OpenVinoBackend)


def test_a_driver_without_a_gpu_is_no_gpu(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(open_backend(InferenceOptions(model=str(tiny_file))), OpenVinoBackend)


def test_without_openvino_pytorch_computes_and_a_line_says_so(
    tiny_file: Path, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "_has_openvino", lambda: False)
    with caplog.at_level("INFO", "tinyhd"):
        opened = open_backend(InferenceOptions(model=str(tiny_file)))
    assert isinstance(opened, TorchBackend)
    assert caplog.messages == [
        "OpenVINO is not installed here, so PyTorch computes, which is slower.",
        "Computing with PyTorch on cpu, float32.",
    ]
    np.testing.assert_array_equal(opened(clips), TorchBackend(load_model(tiny_file))(clips))
    with pytest.raises(OptionError, match="pip install openvino"):
        open_backend(InferenceOptions(model=str(tiny_file), backend="openvino"))


def test_auto_takes_bfloat16_only_where_processor_and_model_allow(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    can = {"float32", "bfloat16"} if HAS_BFLOAT16 else {"float32"}
    for agreement in (0.9996, 0.9994):
        shutil.rmtree(tiny_file.parent / "cache", ignore_errors=True)
        monkeypatch.setattr(backends, "bfloat16_agreement", lambda path, value=agreement: value)
        expected = "bfloat16" if HAS_BFLOAT16 and agreement > 0.9995 else "float32"
        assert OpenVinoBackend(find_model(tiny_file)).precision == expected
        monkeypatch.setattr(backends, "_can", lambda core, precision: precision == "float32")
        assert OpenVinoBackend(find_model(tiny_file)).precision == "float32"
        monkeypatch.setattr(backends, "_can", lambda core, precision: precision in can)


def test_opened_once(tiny_file: Path, clips: np.ndarray) -> None:
    options = InferenceOptions(model=str(tiny_file), device="cpu")
    first = open_backend(options)
    assert open_backend(options) is first
    changed = load_model(tiny_file)
    with torch.no_grad():
        changed.fusion.bias += 1
    save_model(changed, tiny_file)
    second = open_backend(options)
    assert second is not first
    assert (second(clips) > first(clips)).all()


# ---- no PyTorch

PROGRAM = """
import sys
import makers
from pathlib import Path
from tinyhd.inference.predict import predict_video
from tinyhd.options import InferenceOptions

for model in sys.argv[1:]:
    video = makers.plain(Path(sys.argv[1]).parent, 20).path
    options = InferenceOptions(model=None if model == sys.argv[1] else model, device="cpu")
    assert len(list(predict_video(video, options=options))) == 20
assert "torch" not in sys.modules, "PyTorch was imported"
"""


def test_inference_on_a_cpu_imports_no_pytorch(tiny_file: Path) -> None:
    """With the embedded model, and with another once it was converted."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "tests")])
    run = [sys.executable, "-c", PROGRAM, str(tiny_file), str(tiny_file.with_name("other.safetensors"))]
    shutil.copy(tiny_file, run[-1])
    open_backend(InferenceOptions(model=run[-1], device="cpu"))
    result = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# ---- what is kept


def test_converted_and_compiled_networks_are_kept(
    tiny_file: Path, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TorchBackend(load_model(tiny_file))(clips)
    cache = tiny_file.parent / "cache"
    (kept,) = (cache / "converted").iterdir()
    assert {path.name for path in kept.iterdir()} == {"model.xml", "model.bin", "model.json"}

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("converted again")

    monkeypatch.setattr(backends, "convert", refuse)
    compiled = []
    for _ in range(2):
        np.testing.assert_allclose(OpenVinoBackend(find_model(tiny_file), "float32")(clips), expected, atol=1e-5)
        compiled.append([(path.name, path.stat().st_mtime_ns) for path in (cache / "compiled").iterdir()])
    assert len(compiled[0]) == 1
    assert compiled[1] == compiled[0]
    other = load_model(tiny_file)
    with torch.no_grad():
        other.fusion.bias += 1
    save_model(other, tiny_file)
    with pytest.raises(AssertionError, match="again"):
        OpenVinoBackend(find_model(tiny_file))
    assert [path.name for path in (cache / "converted").iterdir()] == [kept.name]  # nothing half done


def damage_blob(cache: Path) -> None:
    (blob,) = (cache / "compiled").iterdir()
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[: len(content) // 2])


def empty_blob(cache: Path) -> None:
    (blob,) = (cache / "compiled").iterdir()
    blob.chmod(0o644)
    blob.write_bytes(b"")


def damage_converted(cache: Path) -> None:
    (weights,) = (cache / "converted").glob("*/model.bin")
    content = bytearray(weights.read_bytes())
    content[1000:2000] = bytes(1000)
    weights.write_bytes(content)


def damage_facts(cache: Path) -> None:
    (facts,) = (cache / "converted").glob("*/model.json")
    facts.write_text("{")


@pytest.mark.parametrize("damage", [damage_blob, empty_blob, damage_converted, damage_facts])
def test_a_damaged_cache_is_made_anew(tiny_file: Path, clips: np.ndarray, damage: Any) -> None:
    expected = OpenVinoBackend(find_model(tiny_file), "float32")(clips)
    damage(tiny_file.parent / "cache")
    for _ in range(2):
        np.testing.assert_array_equal(OpenVinoBackend(find_model(tiny_file), "float32")(clips), expected)


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny_file: Path, clips: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = OpenVinoBackend(find_model(tiny_file), "float32")(clips)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(OpenVinoBackend(find_model(tiny_file), "float32")(clips), expected)


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        os.utime(folder, (number, number))
    backends._keep_latest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:02}" for n in range(4, 12)]


def test_a_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(backends.__file__).parents[1] / "models", tmp_path / "models")
    monkeypatch.setattr(backends.resources, "files", lambda name: tmp_path)
    weights = tmp_path / "models" / "tinyhd-m.bin"
    content = bytearray(weights.read_bytes())
    content[5000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="install tinyhd again"):
        OpenVinoBackend(find_model())
    weights.unlink()
    with pytest.raises(WeightsError, match="install tinyhd again"):
        OpenVinoBackend(find_model())


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert backends._threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
        assert backends._threads() == 3
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert backends._threads() is None


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backend": "openvino", "device": "cuda"}, "--backend torch"),
        ({"backend": "openvino", "precision": "float16"}, "does not compute in float16"),
        ({"backend": "torch", "device": "cpu", "precision": "float16"}, "float16 is for GPUs"),
    ],
)
def test_what_is_not_possible(tiny_file: Path, options: dict[str, str], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        open_backend(InferenceOptions(model=str(tiny_file), **options))  # type: ignore[arg-type]


def test_without_pytorch_other_weights_say_what_is_missing(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tiny_file.parent / "cache")
    monkeypatch.setitem(sys.modules, "tinyhd.network.convert", None)
    with pytest.raises(OptionError, match=r"pip install 'tinyhd\[torch\]'"):
        open_backend(InferenceOptions(model=str(tiny_file), device="cpu"))
