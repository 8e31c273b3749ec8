"""Every backend gives the same maps as the published network, and the right one is taken."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import skip_or_fail

from tinyhd import backends
from tinyhd.errors import OptionError
from tinyhd.inference.backends import (
    NumbaMaps,
    OnnxMaps,
    OpenVinoBackend,
    TorchBackend,
    choose_backend,
    fingerprint,
    open_backend,
)
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD, TinyHDConfig
from tinyhd.network.convert import EXTRAS, inference_copy, is_installed
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import load_model

CLASSES = {"torch": TorchBackend, "numba": NumbaMaps, "openvino": OpenVinoBackend, "onnxruntime": OnnxMaps}


def needs(backend: str) -> None:
    wanted = {"openvino": ["openvino"], "onnxruntime": ["onnx", "onnxruntime"]}.get(backend, [])
    if not all(is_installed(what) for what in wanted):
        skip_or_fail(f"{backend} is not installed")


@pytest.fixture(scope="module")
def tiny() -> TinyHD:
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    for name, value in model.state_dict().items():  # BatchNorm that does something
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(2, 3, 16, 192, 256, generator=torch.Generator().manual_seed(1))


# ---- the same maps


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("multi_output", [True, False])
def test_folding_changes_nothing(plain: bool, multi_output: bool) -> None:
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(multi_output, 4, ("d2",), output_stride=4)).eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    before = copy.deepcopy(model.state_dict())
    clip = torch.randn(1, 3, 16, 32, 32)
    folded = inference_copy(model, plain)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(clip).fused, model(clip).fused, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("torch", "m"),
        ("torch", "s"),
        ("numba", "m"),
        ("numba", "s"),
        ("openvino", "m"),
        ("openvino", "s"),
        ("onnxruntime", "m"),
    ],
)
def test_backends_reproduce_the_published_clip(backend: str, kind: str, shared: Path) -> None:
    needs(backend)
    golden = np.load(shared / "golden/official_rc4_clip.npz")
    rgb = torch.from_numpy(golden["frames_rgb_uint8_thwc"]).float() / 255
    clip = ((rgb - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(3, 0, 1, 2)[None]
    maps = open_backend(load_model(shared / f"weights/d123{kind}_rc4_rc1T.pth"), backend)
    assert maps.maps_per_clip == (16 if kind == "m" else 1)
    found = maps(clip)[0].numpy()
    (name,) = [key for key in golden.files if key.endswith(".fused") and f"123{kind}" in key]
    expected = golden[name]
    if kind == "m":
        found = found[[0, 5, 10, 15]]
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", ["numba", "openvino"])
def test_agreement_on_the_default_model(backend: str, clips: torch.Tensor) -> None:
    """Far closer than the correlation of 0.999 that a faster mode must have."""
    needs(backend)
    model = load_model()
    expected = TorchBackend(model)(clips)
    found = CLASSES[backend](model)(clips)
    assert found.shape == expected.shape
    for a, b in zip(found.flatten(0, 1), expected.flatten(0, 1), strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999999
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("backend", ["numba", "openvino"])
def test_results_are_not_overwritten_by_the_next_call(backend: str, tiny: TinyHD, clips: torch.Tensor) -> None:
    needs(backend)
    maps = CLASSES[backend](tiny)
    first = maps(clips[:1])
    kept = first.clone()
    maps(clips[1:])
    assert torch.equal(first, kept)


# ---- the choice


def test_auto_is_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend(torch.device("cpu")) == "numba"
    assert choose_backend(torch.device("cuda")) == choose_backend(torch.device("mps")) == "torch"
    monkeypatch.setattr(backends, "is_installed", lambda what: False)
    assert choose_backend(torch.device("cpu")) == "numba"
    assert choose_backend(torch.device("cpu"), "bfloat16") == "torch"


def test_auto_takes_a_precision_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openvino")
    for has in (True, False):
        monkeypatch.setattr(backends, "_openvino_can", lambda core, precision, has=has: has)
        assert choose_backend(torch.device("cpu"), "bfloat16") == ("openvino" if has else "torch")


def test_numba_that_does_not_work_is_done_without(
    tiny: TinyHD, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tinyhd.simd", None)
    monkeypatch.setattr(backends, "is_installed", lambda what: False)
    backends.kernels_work.cache_clear()
    try:
        assert choose_backend(torch.device("cpu")) == "torch"
        assert "costs speed" in caplog.text
        with pytest.raises(OptionError, match="use another --backend"):
            open_backend(tiny, "numba")
    finally:
        backends.kernels_work.cache_clear()


def test_compiled_kernels_that_cannot_be_read(
    tiny: TinyHD, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compile_kernels = NumbaMaps._compile
    given_up: list[bool] = []

    def compile_without_files(maps: NumbaMaps) -> None:
        if not given_up:
            raise EOFError
        compile_kernels(maps)

    monkeypatch.setattr(NumbaMaps, "_compile", compile_without_files)
    monkeypatch.setattr("tinyhd.simd.give_up_cache", lambda: given_up.append(True))
    torch.testing.assert_close(NumbaMaps(tiny)(clips), TorchBackend(tiny)(clips), rtol=1e-4, atol=1e-6)
    assert "cannot be kept on disk or read" in caplog.text


def test_it_says_what_it_took(tiny: TinyHD, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "tinyhd"):
        open_backend(tiny, "torch")
    assert caplog.messages[-1] == "Computing with torch on cpu, float32."


def test_made_once_but_never_with_old_weights(tiny: TinyHD, clips: torch.Tensor) -> None:
    model = copy.deepcopy(tiny)
    first = open_backend(model, "torch")
    assert open_backend(model, "torch") is first
    with torch.no_grad():
        model.fusion.bias += 1
    second = open_backend(model, "torch")
    assert second is not first
    assert (second(clips) > first(clips)).all()


# ---- converted networks


def test_converted_networks_are_kept(
    tiny: TinyHD, clips: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("openvino")
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path))
    expected = OpenVinoBackend(tiny)(clips)
    (kept,) = (tmp_path / "converted").iterdir()
    assert {path.name for path in kept.iterdir()} == {"model.xml", "model.bin"}

    def refuse(model: TinyHD) -> Any:
        raise AssertionError("converted again")

    monkeypatch.setattr(backends, "to_openvino", refuse)
    assert torch.equal(OpenVinoBackend(tiny)(clips), expected)
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.fusion.bias += 1
    with pytest.raises(AssertionError, match="again"):
        OpenVinoBackend(other)
    assert [path.name for path in (tmp_path / "converted").iterdir()] == [kept.name]  # nothing half done


def test_only_the_latest_are_kept(tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path))
    for number in range(12):
        with backends._converted(tiny, f"kind-{number}", lambda folder: (folder / "x").touch()) as folder:
            assert (folder / "x").exists()
    assert len(list((tmp_path / "converted").iterdir())) == backends._KEPT


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "file"))
    with backends._converted(tiny, "kind-1", lambda folder: (folder / "x").touch()) as folder:
        assert (folder / "x").exists()
    assert not folder.exists()


def test_fingerprint_is_of_weights_and_config(tiny: TinyHD) -> None:
    assert fingerprint(tiny) == fingerprint(copy.deepcopy(tiny))
    assert fingerprint(tiny) != fingerprint(TinyHD(tiny.config))
    renamed = copy.deepcopy(tiny)
    renamed.config = TinyHDConfig(True, 4, ("d2",), output_stride=2)
    assert fingerprint(tiny) != fingerprint(renamed)


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backend": "tensorrt"}, "must be one of auto, torch, numba, openvino, onnxruntime"),
        ({"precision": "float64"}, "must be one of float32, bfloat16, float16"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "float32 only"),
        ({"backend": "openvino", "precision": "float16"}, "does not compute in float16"),
    ],
)
def test_wrong_options(tiny: TinyHD, options: dict[str, str], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        open_backend(tiny, **options)


@pytest.mark.parametrize(
    ("backend", "package"), [("openvino", r"'tinyhd\[openvino\]'"), ("onnxruntime", r"'tinyhd\[onnx\]'")]
)
def test_what_is_missing_is_named(tiny: TinyHD, monkeypatch: pytest.MonkeyPatch, backend: str, package: str) -> None:
    monkeypatch.setitem(EXTRAS, backend, ("no_such_package",))
    with pytest.raises(OptionError, match=rf"no_such_package must be installed .* pip install {package}\."):
        open_backend(tiny, backend)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_other_devices_are_for_pytorch(backend: str) -> None:
    with pytest.raises(OptionError, match="--backend torch"):
        CLASSES[backend](TinyHD(TinyHDConfig(True, 4, ("d2",))).to("meta"))
