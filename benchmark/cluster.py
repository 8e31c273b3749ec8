"""Throughput of a Ray cluster on this machine with 1, 2 and 4 workers: python -m benchmark.cluster VIDEO [--copies N]

Each worker is a node of one processor on 127.0.0.1; with more workers than processors they share them. Starting the
cluster is not counted, nor is the first job of each worker, which opens the model.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.manifest import TODO, Plan
from tinyhd.pipeline.workers import run_jobs


def measure(video: Path, workers: int, copies: int) -> tuple[float, float, float]:
    """(videos, frames) a second, and seconds for `copies` videos, with so many workers."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="thd-")
    common = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **common})
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=1, **common)
        options = BatchOptions(ray=cluster.address)
        with tempfile.TemporaryDirectory() as out:

            def run(count: int, kind: str) -> int:
                plans = [Plan(TODO, Job(video, Path(out, f"{kind}{k}.track.npz"), "analyze")) for k in range(count)]
                outcomes = list(run_jobs(plans, InferenceOptions(), options))
                if failed := [outcome.error for outcome in outcomes if outcome.error]:
                    raise SystemExit(failed[0])
                return sum(outcome.result.frames for outcome in outcomes if outcome.result)

            # connecting and opening the model take as long with few videos as with many: the difference is the work
            began = time.perf_counter()
            few = run(workers, "few")
            between = time.perf_counter()
            many = run(workers + copies, "many")
            seconds = (time.perf_counter() - between) - (between - began)
            return copies / seconds, (many - few) / seconds, seconds
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print a row of a Markdown table for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--copies", type=int, default=16, help="how often it is analyzed")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    # read when Ray is imported: all servers on this machine only
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    print("| workers | videos/s | frames/s | seconds |\n|---|---|---|---|")
    for workers in arguments.workers:
        videos, frames, seconds = measure(arguments.video.resolve(), workers, arguments.copies)
        print(f"| {workers} | {videos:.2f} | {frames:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
