"""The terms of the training loss. Maps are (N, K, h, w), non-negative and meaningful up to scale, unless said.

Every term is a mean over the maps that have a target; a term without any is zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tinyhd.network.model import TinyHDOutput
from training.teachers import TeacherMaps, normalize_sum, resize_maps


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; the paper's are 1 for the first three, and 1 for `decoders` under a teacher assistant."""

    ground_truth: float = 1.0
    """KL divergence of the fused map from the human density map (TinyHD, section 3)."""
    teacher: float = 1.0
    """KL divergence of the fused map from the teacher's."""
    teacher_labelled: float = 1.0
    """Factor on that term for frames that have a label, where people come first and the teacher only steadies."""
    hierarchical: float = 1.0
    """Hierarchical multi-map distillation: KL of D1's four maps from the teacher's, summed over the four."""
    decoders: float = 0.0
    """KL of D2's and D3's maps from the same decoder's of a TinyHD teacher (teacher assistant), summed over both."""
    cc: float = 0.0
    """1 - CC of the fused map with the density map or, without one, the teacher's (after ViNet, Jain et al. 2021)."""
    nss: float = 0.0
    """-NSS of the fused map at the fixations (after SAM, Cornia et al. 2018); labelled clips only."""


def kl_divergence(target: Tensor, prediction: Tensor) -> Tensor:
    """KL(target || prediction) of each map, natural logarithm: (N, K, h, w) twice -> (N, K).

    Both are divided by their sums; a pixel where the target is zero adds nothing.
    """
    target, prediction = normalize_sum(target), normalize_sum(prediction)
    return (torch.xlogy(target, target) - target * prediction.clamp_min(1e-20).log()).sum((-2, -1))


def correlation(target: Tensor, prediction: Tensor) -> Tensor:
    """Pearson's linear correlation of each pair of maps: (N, K, h, w) twice -> (N, K)."""
    t = target - target.mean((-2, -1), keepdim=True)
    p = prediction - prediction.mean((-2, -1), keepdim=True)
    norm = (t.square().sum((-2, -1)) * p.square().sum((-2, -1))).sqrt()
    return (t * p).sum((-2, -1)) / norm.clamp_min(1e-12)


def scanpath_saliency(counts: Tensor, prediction: Tensor) -> Tensor:
    """NSS of each map: fixation counts (N, K, h, w) and maps -> (N, K)."""
    p = prediction - prediction.mean((-2, -1), keepdim=True)
    p = p / p.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
    return (p * counts).sum((-2, -1)) / counts.sum((-2, -1)).clamp_min(1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1)


def distillation_loss(
    output: TinyHDOutput,
    teacher: TeacherMaps,
    density: Tensor,
    counts: Tensor,
    weights: LossWeights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss and its terms, unweighted.

    Args:
        output: the student's maps.
        teacher: its targets; any size, brought to the student's.
        density: (N, K, h, w) human density maps; all zero where a frame has no label.
        counts: (N, K, h, w) fixations per pixel; all zero where a frame has no label.
        weights: of the terms; a term of weight 0 is not computed.
    """
    fused = output.fused.float()
    size = fused.shape[-2:]
    labelled = (density.sum((-2, -1)) > 0).to(fused.dtype)
    soft = resize_maps(teacher.fused, *size)
    terms: dict[str, Tensor] = {}
    if weights.ground_truth:
        terms["ground_truth"] = _masked_mean(kl_divergence(density, fused), labelled)
    if weights.teacher:
        share = 1 - labelled * (1 - weights.teacher_labelled)
        terms["teacher"] = (share * kl_divergence(soft, fused)).mean()
    if weights.hierarchical and "d1" in output.decoders:
        d1 = output.decoders["d1"].float()
        terms["hierarchical"] = kl_divergence(resize_maps(teacher.d1, *size), d1).sum(1).mean()
    if weights.decoders:
        pairs = [(getattr(teacher, name), output.decoders.get(name)) for name in ("d2", "d3")]
        values = [
            kl_divergence(resize_maps(target, *size), maps.float()).mean()
            for target, maps in pairs
            if target is not None and maps is not None
        ]
        if values:
            terms["decoders"] = torch.stack(values).sum()
    if weights.cc:
        target = torch.where(labelled[..., None, None] > 0, normalize_sum(density), normalize_sum(soft))
        terms["cc"] = 1 - correlation(target, fused).mean()
    if weights.nss:
        terms["nss"] = -_masked_mean(scanpath_saliency(counts, fused), labelled)
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return total, terms
