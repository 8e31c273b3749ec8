"""Reading back kept maps, one at a time."""

import os
import zipfile
from collections.abc import Iterator

import numpy as np


def read_maps(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The maps of an .npz file that `tinyhd.maps` wrote, in order: float32 (H, W); no more than one is in memory."""
    with zipfile.ZipFile(path) as archive, archive.open("maps.npy") as member:
        np.lib.format.read_magic(member)
        (count, *shape), _, dtype = np.lib.format.read_array_header_1_0(member)
        size = dtype.itemsize * int(np.prod(shape))
        for _ in range(count):
            yield np.frombuffer(member.read(size), dtype).reshape(shape).astype(np.float32)
