"""Files made to do harm: damaged in every way, absurdly large on paper, with names that a shell would run."""

import ast
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz
import makers
import pytest
from fakes import GrayModel

import tinyhd
from tinyhd.errors import InputError
from tinyhd.options import EncoderOptions
from tinyhd.pipeline.annotate import annotate
from tinyhd.video.reader import probe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and names of POSIX")

_NUMBERS = (*range(300), 1447, 1827, 2629, 2765, 3165)
"""Of damaged files. The last ones were once annotated wrongly."""


def test_a_batch_of_damaged_files(tmp_path: Path) -> None:
    result = fuzz.run(tmp_path, _NUMBERS)
    print(result)
    assert not result.wrong
    assert result.statuses.total() == len(_NUMBERS)
    assert all(result.statuses[status] > len(_NUMBERS) / 10 for status in ("done", "damaged", "failed"))


def test_the_corpus_is_always_the_same(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9
    made = [[fuzz.mutate(data, data[::-1], fuzz.random.Random(n)) for n in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({kind for kind, _ in made[0]}) == 10
    assert sum(damaged == data for _, damaged in made[0]) < 5


# ---- large on paper


def png_bomb(folder: Path) -> Path:
    """A header that asks for 2.5 GB, which FFmpeg by itself would take."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 16000, 16000, 16, 6, 0, 0, 0)
    path = folder / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(2**20)))
        + chunk(b"IEND", b"")
    )
    return path


def jpeg_bomb(folder: Path) -> Path:
    path = makers.still(folder, "jpg").path
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 16000, 16000)
    path.write_bytes(data)
    return path


def gif_bomb(folder: Path) -> Path:
    path = makers.gif(folder).path
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, 6, 16000, 16000)
    path.write_bytes(data)
    return path


def avi_bomb(folder: Path) -> Path:
    path = makers.make_video(folder / "bomb.avi", 3, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"\xff\xc0", at + 1)) > 0:
        struct.pack_into(">HH", data, at + 5, 16000, 16000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("make", [png_bomb, jpeg_bomb, gif_bomb, avi_bomb])
def test_bombs_are_refused_before_memory_is_taken(make: Callable[[Path], Path], tmp_path: Path) -> None:
    code = (
        "import resource, sys; from tinyhd.video.reader import probe; from tinyhd.errors import InputError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    probe(sys.argv[1])\n"
        "except InputError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, make(tmp_path)], capture_output=True, text=True, check=True)
    sentence, kilobytes = done.stdout.splitlines()
    large = "has frames of more than 134,217,728 pixels, which are refused: scale it down first."
    # FFmpeg's decoder of JPEG knows by itself that so few bytes cannot be so large a picture
    assert sentence.endswith((large, "has a video stream, but no frame of it could be decoded."))
    assert make in (jpeg_bomb, avi_bomb) or sentence.endswith(large)
    assert int(kilobytes) < 64 * 1024


def test_the_limit_holds_for_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = fuzz.make_seeds(tmp_path)
    for module in ("containers", "demux", "reader"):
        monkeypatch.setattr(f"tinyhd.video.{module}.MAX_PIXELS", 1000)
    for path in seeds:
        with pytest.raises(InputError, match="has frames of more than 1,000 pixels"):
            probe(path)


# ---- names


@pytest.mark.parametrize("program", [None, "ffmpeg"])
def test_no_shell_sees_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    names = ["$(touch pwned).mp4", "`touch pwned`.mp4", "x; touch pwned;.mp4", "x|touch pwned.mp4", "-i pwned.mp4"]
    monkeypatch.chdir(tmp_path)
    for name in names:
        makers.clip(tmp_path / name, 2)
        result = annotate(Path(name), backend=GrayModel(), encoder=EncoderOptions(ffmpeg=program))
        assert result.frames == 2
    outputs = [f"{Path(name).stem}.saliency.mp4" for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, *outputs])


def test_no_code_asks_for_a_shell() -> None:
    package = Path(tinyhd.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert "shell" not in {keyword.arg for keyword in node.keywords}, path
                assert ast.unparse(node.func) not in ("os.system", "os.popen", "eval", "exec", "pickle.load"), path
