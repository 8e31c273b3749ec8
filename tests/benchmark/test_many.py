"""A batch of very many jobs: the process that hands them out stays small, and a resumed run starts soon."""

import sys
from pathlib import Path

import pytest

from benchmark.many import measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")

COUNT = 5000


def test_many_jobs(tmp_path: Path) -> None:
    first, again = measure(tmp_path, COUNT)
    print(
        f"{first['jobs']} jobs, memory {min(first['memory']) / 2**20:.0f} to {max(first['memory']) / 2**20:.0f} MB; "
        f"run again: {again['jobs']} job, begun after {again['start_processor_seconds']:.2f} s of processor time"
    )
    assert (first["status"], first["jobs"]) == (0, COUNT)
    assert (again["status"], again["jobs"]) == (0, 1)
    assert len(list((tmp_path / "out").glob("*.npz"))) == COUNT + 1
    # 100,000 may take 300 MB and 10 s; processor time, because other programs may be at work
    assert max(first["memory"]) < 200 * 2**20
    assert max(first["memory"]) - first["memory"][0] < COUNT * 2000
    assert again["start_processor_seconds"] < 10 * COUNT / 100_000 * 6
