"""How the plugin does on many videos: `python tests/plugin/plugin_scale.py [videos] [--real]`.

One delegated run, with a database of its own. The videos are links to three short files: made ones, and a model that
costs nothing, so that what is measured is the plugin and the database; or with `--real` parts of examples/bunny.mp4,
2.5 seconds each, and the embedded model. Prints memory as the run goes on, and the database's growth.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main(count: int, is_real: bool) -> None:
    from plugin_database import PLUGIN_FOLDER, _mongod

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "database").mkdir()
        with _mongod(folder / "database", folder / "mongod.log") as port:
            os.environ |= {
                "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}",
                "FIFTYONE_DATABASE_VALIDATION": "false",
                "FIFTYONE_PLUGINS_DIR": str(PLUGIN_FOLDER),
                "FIFTYONE_DO_NOT_TRACK": "true",
                "FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS": "true",
            }
            run(count, is_real, folder)


def run(count: int, is_real: bool, folder: Path) -> None:
    import fiftyone as fo
    import fiftyone.operators as foo
    from fakes import GrayModel
    from fiftyone.core.odm.database import get_db_conn
    from fiftyone.operators.delegated import DelegatedOperationService

    import tinyhd

    operator = foo.get_operator("@tinyhd/saliency/compute_saliency")
    if not is_real:
        model = GrayModel()
        tinyhd.open_backend = lambda *_, **__: model
    files = make_files(folder, is_real)
    links = [folder / f"link{k}.mp4" for k in range(count)]
    for k, link in enumerate(links):
        link.symlink_to(files[k % len(files)])
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=str(link)) for link in links], progress=False)
    operator(dataset, maps_dir=str(folder / "maps"), delegate=True)
    before, began, is_over = database_bytes(get_db_conn(), dataset), time.monotonic(), threading.Event()

    def watch() -> None:
        told = 0
        while not is_over.wait(0.5):
            done = len(list((folder / "maps").glob("*/*/saliency.track.npz")))
            if done >= told + count // 10:
                told = done
                print(f"after {done} videos, {time.monotonic() - began:.0f} s: {resident_mb():.0f} MB", flush=True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    [result] = DelegatedOperationService().execute_queued_operations(dataset_name=dataset.name)
    is_over.set()
    watcher.join()
    seconds = time.monotonic() - began
    print(result.result["summary"])
    grown = database_bytes(get_db_conn(), dataset) - before
    total = result.result["frames"]
    maps = sum(path.stat().st_size for path in (folder / "maps").rglob("*.png"))
    print(f"{total} frames in {seconds:.0f} s; database: {grown / total:.0f} bytes a frame; ", end="")
    print(f"maps: {maps / total:.0f} bytes a frame of {'640x360' if is_real else '192x128'}")
    dataset.delete()


def make_files(folder: Path, is_real: bool) -> list[Path]:
    """Three short videos."""
    import makers

    from tinyhd.video.reader import open_video
    from tinyhd.video.writer import open_writer

    files = [folder / f"file{k}.mp4" for k in range(3)]
    for k, file in enumerate(files):
        if not is_real:
            makers.make_video(file, 20)
            continue
        start = 1.25 * k
        reader = open_video(ROOT / "examples" / "bunny.mp4", start, start + 2.5)
        with reader, open_writer(file, reader.info) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time_seconds - start)
    return files


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def database_bytes(connection: Any, dataset: Any) -> int:
    """Documents and indexes of a dataset's samples and frames, without compression."""
    names = (dataset._sample_collection_name, dataset._frame_collection_name)
    stats = [connection.command("collstats", name) for name in names]
    return sum(int(s["size"]) + int(s["totalIndexSize"]) for s in stats)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    main(numbers[0] if numbers else 1000, "--real" in sys.argv)
