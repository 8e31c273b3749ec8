"""Saliency metrics: how well one predicted map agrees with where people looked.

Definitions follow Bylinskii et al., "What do different evaluation metrics tell us about saliency models?", TPAMI 2019,
and the MIT/Tuebingen Saliency Benchmark; where those leave a choice, the function says which one is made here.

Conventions common to all:
- A prediction is a map (H, W) of finite numbers, of any type (8-bit included: everything is computed in float64) and
  any scale. It must have the size of the density map it is compared with; resize it with
  `training.fixations.resize_map`. Fixations have no size: each takes the value of the pixel it lies in.
- Every fixation counts, so a pixel fixated twice counts twice. (Codes that start from binary fixation maps cannot do
  that: their NSS and AUC are a little lower where people agree.)
- A constant prediction says nothing and gets the score of chance: NSS 0, AUC 0.5, CC 0; it counts as uniform where a
  probability is needed (SIM, KLD, information gain), also when it is zero.
- Where there is no fixation there is nothing to score: `InputError`.
"""

import numpy as np
from numpy.typing import ArrayLike

from tinyhd.errors import InputError
from training.fixations import Array, DensityMap, FixationPoints

EPSILON = float(np.finfo(np.float64).eps)
"""2.2e-16: keeps logarithms of zero finite, as in the benchmark's code."""


def nss(prediction: ArrayLike, fixations: FixationPoints) -> float:
    """Normalized scanpath saliency (Peters et al. 2005): mean over the fixations of the map's z-score.

    Mean and standard deviation (the population's, divided by H * W) are over all pixels. Chance 0, higher is better.
    """
    values, fixated = _map(prediction), _fixated(prediction, fixations)
    deviation = values.std()
    if _is_constant(values):
        return 0.0
    return float((fixated.mean() - values.mean()) / deviation)


def auc_judd(prediction: ArrayLike, fixations: FixationPoints) -> float:
    """Area under the ROC curve after Judd et al. 2009: can the map's value tell fixated pixels from all others?

    Positives are the fixations, negatives all pixels without one. The curve's points are (false, true positive rate) at
    every value that a fixation has, "at or above" counting as detected, between (0, 0) and (1, 1), joined by straight
    lines. As thresholds lie at fixated values only, the area is a little above the exact probability that a fixation
    outranks another pixel (by less than 0.5 / N for N fixations with different values); this is the number that papers
    report. Ties count half: no random jitter is added to break them. Chance 0.5, higher is better.
    """
    values, positives = _map(prediction), _fixated(prediction, fixations)
    others = np.ones(values.shape, bool)
    others[fixations.pixels(*values.shape)] = False
    negatives = np.sort(values[others])
    if not len(negatives):
        raise InputError("every pixel is fixated; AUC needs some that are not.")
    thresholds, counts = np.unique(positives, return_counts=True)
    hits = np.cumsum(counts[::-1])
    false_alarms = len(negatives) - np.searchsorted(negatives, thresholds[::-1], side="left")
    true_rate = np.concatenate([[0.0], hits / len(positives), [1.0]])
    false_rate = np.concatenate([[0.0], false_alarms / len(negatives), [1.0]])
    return float(np.trapezoid(true_rate, false_rate))


def auc_shuffled(prediction: ArrayLike, fixations: FixationPoints, others: FixationPoints) -> float:
    """Shuffled AUC (Tatler et al. 2005; Zhang et al. 2008): can the map tell this frame's fixations from those that
    people made on other frames? A center prior gets about 0.5.

    The exact probability that a fixation's value exceeds another frame's fixation's, ties counting half: the area under
    the full ROC curve, and what the usual average over random draws from `others` tends to.

    Args:
        others: fixations of other images or videos, every one a negative; as many times as it occurs.
    """
    positives, negatives = _fixated(prediction, fixations), np.sort(_fixated(prediction, others))
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def cc(prediction: ArrayLike, density: DensityMap) -> float:
    """Pearson's linear correlation of the two maps' pixels (Le Meur et al. 2007): -1 to 1, chance 0."""
    values, truth = _pair(prediction, density)
    if _is_constant(values) or _is_constant(truth):
        return 0.0
    return float(np.mean((values - values.mean()) * (truth - truth.mean())) / (values.std() * truth.std()))


def sim(prediction: ArrayLike, density: DensityMap) -> float:
    """Similarity, or histogram intersection (Judd et al. 2012): sum over the pixels of the smaller of the two maps,
    each less its minimum and scaled to the sum 1, as in the benchmark's code. 0 to 1, higher is better.

    Taking the minimum off matters: a map with a small pedestal everywhere, as sigmoids make, gains 0.02.
    """
    values, truth = _pair(prediction, density)
    return float(np.minimum(as_probability(values - values.min()), as_probability(truth - truth.min())).sum())


def kld(prediction: ArrayLike, density: DensityMap) -> float:
    """Kullback-Leibler divergence of the prediction from the density, in nats: sum of q log(eps + q / (p + eps)), both
    maps scaled to the sum 1, eps 2.2e-16 (the benchmark's form). 0 at best, lower is better."""
    values, truth = _pair(prediction, density)
    return float((truth * np.log(EPSILON + truth / (as_probability(values) + EPSILON))).sum())


def information_gain(prediction: ArrayLike, fixations: FixationPoints, baseline: DensityMap) -> float:
    """Information gain (Kuemmerer et al. 2015) over a baseline, in bits per fixation: mean over the fixations of
    log2(p + eps) - log2(b + eps), both maps scaled to the sum 1. 0 for the baseline itself, higher is better.

    The map is taken as a probability as it is, so a model pays for maps that are too sharp or too flat.
    """
    values, expected = _pair(prediction, baseline)
    probability = _fixated(as_probability(values), fixations)
    return float(np.mean(np.log2(probability + EPSILON) - np.log2(_fixated(expected, fixations) + EPSILON)))


def change(prediction: ArrayLike, other: ArrayLike) -> float:
    """Half the L1 distance of two maps of the same size, each scaled to the sum 1: the share of attention that moves
    from one to the other (total variation). 0 for equal maps, 1 for maps that have nothing in common."""
    one, two = _map(prediction), _map(other)
    if one.shape != two.shape:
        raise InputError(f"maps of {one.shape[0]}x{one.shape[1]} and {two.shape[0]}x{two.shape[1]} cannot be compared.")
    return float(np.abs(as_probability(one) - as_probability(two)).sum() / 2)


def as_probability(values: Array) -> Array:
    """A map (H, W) scaled to the sum 1; uniform where it is zero everywhere.

    Raises:
        InputError: the map has negative values.
    """
    if values.min() < 0:
        raise InputError("the predicted map has negative values and cannot be taken as a probability.")
    total = values.sum()
    return values / total if total > 0 else np.full_like(values, 1 / values.size)


def _map(prediction: ArrayLike) -> Array:
    """The prediction in float64, checked."""
    if isinstance(prediction, FixationPoints | DensityMap):
        raise TypeError(f"the prediction is a {type(prediction).__name__}; it must be an array (H, W).")
    values = np.asarray(prediction, np.float64)
    if values.ndim != 2:
        raise InputError(f"a predicted map has two dimensions, not shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("the predicted map has values that are not finite.")
    return values


def _fixated(prediction: ArrayLike, fixations: FixationPoints) -> Array:
    """The map's values at the fixations."""
    if not isinstance(fixations, FixationPoints):
        raise TypeError(
            f"this metric compares with fixation points (FixationPoints), not with a {type(fixations).__name__}: on a "
            "density map it gives numbers that mean something else."
        )
    if not len(fixations):
        raise InputError("there is no fixation to score the map with.")
    values = _map(prediction)
    return values[fixations.pixels(*values.shape)]


def _pair(prediction: ArrayLike, density: DensityMap) -> tuple[Array, Array]:
    """The two maps' values, of the same size."""
    if not isinstance(density, DensityMap):
        raise TypeError(f"this metric compares with a density map (DensityMap), not with a {type(density).__name__}.")
    values = _map(prediction)
    if values.shape != density.values.shape:
        raise InputError(
            f"the predicted map is {values.shape[0]}x{values.shape[1]}, the density map "
            f"{density.values.shape[0]}x{density.values.shape[1]}: resize one of them (training.fixations.resize_map)."
        )
    return values, density.values


def _is_constant(values: Array) -> bool:
    # the deviation of a constant map is not exactly 0 in floating point
    return bool(values.min() == values.max())
