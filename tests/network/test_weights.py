"""Weights: names, files, the mapping from published names, fetching and verifying."""

import http.server
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tinyhd.errors import OptionError, OutputError, WeightsError
from tinyhd.inference.backends import convert
from tinyhd.network import registry
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.published import from_published, published_config
from tinyhd.network.registry import MODELS, ModelInfo, cache_folder, find_model, git_blob_id, list_models
from tinyhd.network.weights import CONFIG_KEY, load_model, resolve_device, save_model

VARIANTS = [f"{kind}_rc{rc}" for kind in "SM" for rc in (1, 2, 4)]


def small_config() -> TinyHDConfig:
    return TinyHDConfig(multi_output=True, channel_reduction=4, decoders=("d2",))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_model(TinyHD(small_config()), path)
    return path


def published_state(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.zeros(shape, dtype=torch.long) if not shape else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


# ---- published names


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_names_map_onto_the_whole_network(shared: Path, variant: str) -> None:
    shapes = json.loads((shared / "golden" / "state_dict_shapes.json").read_text())[variant]
    model = TinyHD(TinyHDConfig(variant[0] == "M", int(variant[-1])))
    state = from_published({key: torch.empty(shape) for key, shape in shapes.items()})
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert len(state) == len(shapes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_is_read_from_published_tensors(shared: Path, variant: str) -> None:
    shapes = json.loads((shared / "golden" / "state_dict_shapes.json").read_text())[variant]
    state = {key: torch.empty(shape) for key, shape in shapes.items()}
    assert published_config(state) == TinyHDConfig(variant[0] == "M", int(variant[-1]))


def test_fusion_order_comes_from_the_blob_id(shared: Path) -> None:
    shapes = json.loads((shared / "golden" / "state_dict_shapes.json").read_text())["M_rc1"]
    state = {key: torch.empty(shape) for key, shape in shapes.items()}
    blob = MODELS["published/d1d2d3_M_lt"].git_blob_id
    assert published_config(state, blob).fusion_order == ("d2", "d3", "d1")
    assert published_config(state, "0" * 40).fusion_order == ("d1", "d2", "d3")


@pytest.mark.parametrize("name", ["d123m_rc4_rc1T", "d123s_rc4_rc1T"])
def test_published_checkpoint_reproduces_the_real_clip(shared: Path, golden_clip: Any, name: str) -> None:
    golden, clip = golden_clip
    model = load_model(shared / "weights" / f"{name}.pth")
    assert not model.training
    with torch.inference_mode():
        output = model(torch.from_numpy(clip))
    kept = [0, 5, 10, 15] if model.config.multi_output else [0]
    np.testing.assert_allclose(output.fused[0, kept], golden[f"{name}.fused"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(output.decoders["d1"][0], golden[f"{name}.d1"], atol=1e-4, rtol=0)
    for decoder in ("d2", "d3"):
        expected = golden[f"{name}.{decoder}"]
        np.testing.assert_allclose(output.decoders[decoder][0, kept], expected, atol=1e-4, rtol=0)


# ---- files


def test_own_format_round_trip(own_file: Path) -> None:
    torch.manual_seed(0)
    expected = TinyHD(small_config()).state_dict()
    model = load_model(own_file)
    assert model.config == small_config()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert [p.name for p in own_file.parent.iterdir()] == [own_file.name]


def test_every_config_field_survives(tmp_path: Path) -> None:
    config = TinyHDConfig(False, 4, ("d2", "d3"), ("d3", "d2"), output_stride=4, display_scale=0.1)
    save_model(TinyHD(config), tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").config == config


def test_save_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(TinyHD(small_config()), tmp_path / "no" / "a.safetensors")


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return print, ("code in a checkpoint ran",)


def made_files(folder: Path) -> dict[str, bytes]:
    """Files that are no model, by what is wrong with them."""
    torch.manual_seed(0)
    good = folder / "good"
    save_model(TinyHD(small_config()), good)
    own = good.read_bytes()
    state = safetensors.torch.load(own)

    def pickled(content: object, **options: bool) -> bytes:
        path = folder / "pickle"
        torch.save(content, path, **options)
        return path.read_bytes()

    config = json.dumps(small_config().to_dict())
    broken = dict(state) | {"fusion.bias": torch.tensor([float("nan")])}
    return {
        "empty": b"",
        "text": b"these are not the weights you are looking for" * 9,
        "safetensors cut short": own[: len(own) // 2],
        "safetensors header damaged": own[:20] + b"\xff" + own[21:],
        "no config": safetensors.torch.save(state),
        "config not JSON": safetensors.torch.save(state, {CONFIG_KEY: "rc=4"}),
        "config of a newer version": safetensors.torch.save(
            state, {CONFIG_KEY: json.dumps(json.loads(config) | {"decoder_count": 7})}
        ),
        "impossible config": safetensors.torch.save(
            state, {CONFIG_KEY: json.dumps(json.loads(config) | {"channel_reduction": 3})}
        ),
        "tensor missing": safetensors.torch.save(
            {k: v for k, v in state.items() if k != "fusion.bias"}, {CONFIG_KEY: config}
        ),
        "tensors of another config": safetensors.torch.save(
            state, {CONFIG_KEY: json.dumps(TinyHDConfig(False, 2).to_dict())}
        ),
        "not finite": safetensors.torch.save(broken, {CONFIG_KEY: config}),
        "pth without the state dict": pickled({"model": state}),
        "pth of another network": pickled({"student_model": {"conv1.weight": torch.ones(3)}}),
        "pth with no dict": pickled([1, 2]),
        "pth with code": pickled({"student_model": Evil()}),
        "old pth with code": pickled({"student_model": Evil()}, _use_new_zipfile_serialization=False),
        "pth cut short": pickled({"student_model": state})[:5000],
    }


def test_bad_files_raise_one_clear_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for case, data in made_files(tmp_path).items():
        path = tmp_path / "bad file.pth"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"bad file\.pth") as raised:
            load_model(path)
        assert "\n" not in str(raised.value), case
    assert "code in a checkpoint ran" not in capfd.readouterr().out


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path)


# ---- names


def test_unknown_names_list_the_valid_ones(tmp_path: Path) -> None:
    for name in ("published/d123m_rc8", "tinyhd-huge", str(tmp_path / "none.safetensors")):
        with pytest.raises(WeightsError, match="d123m_rc4_rc1T") as raised:
            load_model(name)
        assert name in str(raised.value)


def test_registry_is_complete() -> None:
    published = [info for info in MODELS.values() if info.name.startswith("published/")]
    assert len(published) == 8
    for info in MODELS.values():
        assert info.sha256 or (info.git_blob_id and len(info.git_blob_id) == 40)
        assert info.provenance
        assert info.license
    assert list_models() == list(MODELS)
    assert registry.DEFAULT_MODEL is None or registry.DEFAULT_MODEL in MODELS


def test_without_an_embedded_model_the_error_says_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DEFAULT_MODEL", None)
    with pytest.raises(WeightsError, match=r"name one.*published/d123m_rc4_rc1T"):
        load_model()


def test_embedded_model_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_file: Path) -> None:
    folder = tmp_path / "package" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(registry.resources, "files", lambda _: folder.parent)
    facts = convert(find_model(own_file), tmp_path / "tiny.xml", half=True)
    info = ModelInfo("tiny", "tiny.xml", "made", "none", config=small_config(), sha256=facts["sha256"])
    monkeypatch.setitem(MODELS, "tiny", info)
    monkeypatch.setattr(registry, "DEFAULT_MODEL", "tiny")
    with pytest.raises(WeightsError, match="missing: install"):
        load_model()
    for name in ("tiny.xml", "tiny.bin"):
        shutil.copyfile(tmp_path / name, folder / name)
    assert load_model().config == small_config()
    with (folder / "tiny.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsError, match="damaged: install"):
        load_model()


# ---- fetching, from a server on loopback


class Server:
    """Serves `files`; `announce` overrides the Content-Length of a file, `status` what it answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.announce: dict[str, int] = {}
        self.status = 200
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                body = outer.files.get(self.path)
                if body is None or outer.status != 200:
                    self.send_error(404 if body is None else outer.status)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(outer.announce.get(self.path, len(body))))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/files/"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("TINYHD_WEIGHTS_URL", server.url)
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "cache folder"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


@pytest.fixture
def made(server: Server, own_file: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """A registered model that the server has."""
    data = own_file.read_bytes()
    info = ModelInfo(
        "published/made", "made.pth", "made", "none", git_blob_id=git_blob_id(data), url="http://unused.invalid"
    )
    monkeypatch.setitem(MODELS, info.name, info)
    server.files["/files/made.pth"] = data
    return info


def test_git_blob_id_is_gits() -> None:
    # `printf 'what is up, doc?' | git hash-object --stdin`, the example of the Pro Git book
    assert git_blob_id(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_fetched_once_then_from_the_cache(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    assert load_model(made.name).config == small_config()
    assert load_model(made.name).config == small_config()
    assert server.requests == ["/files/made.pth"]
    assert [p.name for p in (tmp_path / "cache folder").iterdir()] == ["made.pth"]


def test_a_damaged_cache_is_fetched_again(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    load_model(made.name)
    cached = tmp_path / "cache folder" / "made.pth"
    cached.write_bytes(cached.read_bytes()[:-1])
    load_model(made.name)
    assert len(server.requests) == 2
    assert made.verify(cached.read_bytes())


def assert_refused(made: ModelInfo, cache: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as raised:
        load_model(made.name)
    assert made.name in str(raised.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_wrong_hash(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    server.files["/files/made.pth"] = server.files["/files/made.pth"][:-1] + b"\xff"
    assert_refused(made, tmp_path / "cache folder", "wrong hash")


def test_truncated_on_the_way(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    body = server.files["/files/made.pth"]
    server.announce["/files/made.pth"] = len(body)
    server.files["/files/made.pth"] = body[: len(body) // 2]
    assert_refused(made, tmp_path / "cache folder", "incomplete|cannot be fetched")


def test_not_there_and_server_trouble(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    server.status = 503
    assert_refused(made, tmp_path / "cache folder", "answers 503")
    server.files.clear()
    assert_refused(made, tmp_path / "cache folder", "answers 404")


def test_endless_body(server: Server, made: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_FETCH_BYTES", 1000)
    with pytest.raises(WeightsError, match="more than a model file"):
        load_model(made.name)


def test_offline(server: Server, made: ModelInfo, tmp_path: Path) -> None:
    server.close()
    assert_refused(made, tmp_path / "cache folder", "cannot be fetched .*check the connection")


def test_silent_server(made: ModelInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        monkeypatch.setenv("TINYHD_WEIGHTS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(registry, "TIMEOUT_SECONDS", 0.2)
        assert_refused(made, tmp_path / "cache folder", "timed out")


def test_cache_that_cannot_be_written(
    server: Server, made: ModelInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set TINYHD_CACHE"):
        load_model(made.name)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYHD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TINYHD_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "tinyhd"


# ---- devices


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(OptionError, match="no CUDA device here; use cpu"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(OptionError, match="are 0 to 1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(OptionError, match="mps"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "tpu"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(OptionError, match="auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_the_embedded_model_looks_where_the_published_one_does(golden_clip: Any) -> None:
    golden, clip = golden_clip
    with torch.inference_mode():
        maps = load_model()(torch.from_numpy(clip)).fused
    maps = torch.nn.functional.interpolate(maps, (192, 256), mode="bicubic")[0, [0, 5, 10, 15]]
    for mine, theirs in zip(maps.numpy(), golden["d123m_rc4_rc1T.fused"], strict=True):
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.65
