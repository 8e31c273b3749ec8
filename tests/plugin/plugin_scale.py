"""How the plugin does on many videos: `python tests/plugin/plugin_scale.py [videos]`, with FIFTYONE_DATABASE_URI set.

One delegated run over videos that are links to three short files, with a model that costs nothing: what is measured is
the plugin and the database. Prints memory as the run goes on, and the database's growth.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

FRAMES = 20


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main(count: int) -> None:
    import fiftyone as fo
    import fiftyone.operators as foo
    import makers
    from fakes import GrayModel
    from fiftyone.core.odm.database import get_db_conn
    from fiftyone.operators.delegated import DelegatedOperationService

    import tinyhd

    operator = foo.get_operator("@tinyhd/saliency/compute_saliency")
    memory: list[tuple[int, float]] = []

    class Model(GrayModel):
        def __call__(self, clips: Any) -> Any:
            result = super().__call__(clips)
            if self.clips % (count // 5) == 0:  # two clips a video
                memory.append((self.clips // 2, resident_mb()))
                print(f"after {memory[-1][0]} videos: {memory[-1][1]:.0f} MB", flush=True)
            return result

    tinyhd.open_backend = lambda *_, **__: Model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [makers.make_video(folder / f"file{k}.mp4", FRAMES) for k in range(3)]
        links = [folder / f"link{k}.mp4" for k in range(count)]
        for k, link in enumerate(links):
            link.symlink_to(files[k % 3])
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=str(link)) for link in links], progress=False)
        operator(dataset, maps_dir=str(folder / "maps"), delegate=True)
        before, began = _database_bytes(get_db_conn(), dataset), time.monotonic()
        [result] = DelegatedOperationService().execute_queued_operations(dataset_name=dataset.name)
        seconds = time.monotonic() - began
        print(result.result["summary"])
        grown = _database_bytes(get_db_conn(), dataset) - before
        maps = sum(path.stat().st_size for path in (folder / "maps").rglob("*.png"))
        total = count * FRAMES
        print(f"{total} frames in {seconds:.0f} s; database: {grown / total:.0f} bytes a frame; ", end="")
        print(f"maps: {maps / total:.0f} bytes a frame of {makers.WIDTH}x{makers.HEIGHT}")
        dataset.delete()


def _database_bytes(connection: Any, dataset: Any) -> int:
    """Documents and indexes of a dataset's samples and frames, without compression."""
    names = (dataset._sample_collection_name, dataset._frame_collection_name)
    stats = [connection.command("collstats", name) for name in names]
    return sum(int(s["size"]) + int(s["totalIndexSize"]) for s in stats)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
