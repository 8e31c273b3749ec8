"""The weights that the reference outputs were computed with (golden/README.md defines them by formulas)."""

import numpy as np
import torch
from torch import Tensor


def set_by_formula(tensor: Tensor, name: str, s: np.ndarray) -> None:
    """Fill a parameter or statistic with `s` (one number for each element), scaled by what its `name` says it is."""
    if name.endswith("running_var"):
        s = 1 + 0.5 * s**2
    elif name.endswith(("running_mean", "bias")):
        s = 0.1 * s
    elif tensor.ndim == 1:
        s = 1 + 0.2 * s
    else:
        s = s * np.sqrt(4 / (tensor.numel() / tensor.shape[0]))
    tensor.copy_(torch.from_numpy(s.astype(np.float32)).view(tensor.shape))
