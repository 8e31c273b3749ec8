"""Saliency metrics against values worked out by hand, against pysaliency, and in their known traps."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_pysaliency_reference import CASES, HEIGHT, WIDTH, make_case

from tinyhd.errors import InputError
from training import metrics
from training.fixations import DensityMap, FixationPoints, center_prior, resize_map

REFERENCE = json.loads((Path(__file__).parent / "data" / "pysaliency_reference.json").read_text())["values"]

# 4x5 map with the values 0..19; mean 9.5, population variance (20^2 - 1) / 12 = 33.25
RAMP = np.arange(20.0).reshape(4, 5)


def points(*flat_indices: int) -> FixationPoints:
    """Fixations on pixels of a 4x5 map, by number."""
    rows, columns = np.divmod(np.array(flat_indices, int), 5)
    return FixationPoints.from_pixels(rows, columns, 4, 5)


METRICS = ("nss", "auc_judd", "auc_shuffled", "cc", "sim", "kld", "information_gain")
# pysaliency divides by the rounding error of a constant map's deviation and gives an NSS of -1
COMPARED = [(case, metric) for case in CASES for metric in METRICS if (case, metric) != ("constant", "nss")]


@pytest.mark.parametrize(("case", "metric"), COMPARED)
def test_agrees_with_pysaliency(case: str, metric: str) -> None:
    prediction, density, baseline, fixated, others = make_case(case)
    fixations = FixationPoints.from_pixels(*fixated, HEIGHT, WIDTH)
    arguments = {
        "auc_shuffled": (fixations, FixationPoints.from_pixels(*others, HEIGHT, WIDTH)),
        "information_gain": (fixations, DensityMap(baseline)),
    }
    default = (fixations,) if metric in ("nss", "auc_judd") else (DensityMap(density),)
    value = getattr(metrics, metric)(prediction, *arguments.get(metric, default))
    # KLD where the prediction is 0 depends on the digits of epsilon: pysaliency has 2.2204e-16
    assert value == pytest.approx(REFERENCE[case][metric], abs=1e-5 if metric == "kld" else 1e-12)


def test_nss_by_hand() -> None:
    assert metrics.nss(RAMP, points(19)) == pytest.approx(9.5 / 33.25**0.5)
    assert metrics.nss(RAMP, points(19, 0)) == pytest.approx(0)
    # a pixel fixated twice counts twice: ((19 + 19 + 0) / 3 - 9.5) / deviation
    assert metrics.nss(RAMP, points(19, 19, 0)) == pytest.approx((38 / 3 - 9.5) / 33.25**0.5)


def test_auc_judd_by_hand() -> None:
    # fixated 19 and 9: thresholds 19 (1 hit, 0 of 18 others) and 9 (2 hits, the 9 others among 10..18); trapezoids:
    # from (0, 0.5) to (0.5, 1), then to (1, 1)
    assert metrics.auc_judd(RAMP, points(19, 9)) == pytest.approx(0.5 * 0.75 + 0.5)
    # a pixel fixated three times counts three times: from (0, 0.25) to (0.5, 1)
    assert metrics.auc_judd(RAMP, points(19, 9, 9, 9)) == pytest.approx(0.5 * 0.625 + 0.5)
    assert metrics.auc_judd(RAMP, points(0)) == pytest.approx(0.5)  # one straight line: the known optimizm
    assert metrics.auc_judd(RAMP, points(19)) == pytest.approx(1)


def test_auc_shuffled_by_hand() -> None:
    # 19 > 10, 4, 4; 4 equals two of three and exceeds none: (3 + 2 * 0.5) / (2 * 3)
    assert metrics.auc_shuffled(RAMP, points(19, 4), points(10, 4, 4)) == pytest.approx(4 / 6)
    assert metrics.auc_shuffled(RAMP, points(3, 7), points(3, 7)) == pytest.approx(0.5)


def test_map_metrics_by_hand() -> None:
    prediction, density = np.array([[1.0, 1, 0, 2]]), DensityMap(np.array([[1.0, 0, 1, 2]]))
    assert metrics.sim(prediction, density) == pytest.approx(0.25 + 0 + 0 + 0.5)
    assert metrics.cc(prediction, density) == pytest.approx(0.5)  # covariance 1/4, both variances 1/2
    # a pedestal under the map changes nothing
    assert metrics.sim(prediction + 5, density) == pytest.approx(0.25 + 0 + 0 + 0.5)
    expected = 0.25 * np.log(0.25 / metrics.EPSILON)  # the pixel where nothing was predicted
    assert metrics.kld(prediction, density) == pytest.approx(expected)
    assert metrics.kld(density.values, density) == pytest.approx(0, abs=1e-12)


def test_information_gain_by_hand() -> None:
    prediction, baseline = np.array([[4.0, 2, 1, 1]]), DensityMap(np.array([[1.0, 1, 1, 1]]))
    fixations = FixationPoints.from_pixels([0, 0], [0, 2], 1, 4)
    assert metrics.information_gain(prediction, fixations, baseline) == pytest.approx((1 - 1) / 2)
    assert metrics.information_gain(baseline.values, fixations, baseline) == pytest.approx(0)
    assert metrics.information_gain(prediction, FixationPoints.from_pixels([0], [0], 1, 4), baseline) == pytest.approx(
        1
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 255.0])
def test_constant_map_is_chance(value: float) -> None:
    constant, density = np.full((4, 5), value), DensityMap(RAMP)
    assert metrics.nss(constant, points(3, 11)) == 0
    assert metrics.cc(constant, density) == 0
    assert metrics.auc_judd(constant, points(3, 11)) == pytest.approx(0.5)
    assert metrics.auc_shuffled(constant, points(3, 11), points(5)) == 0.5
    uniform = np.full((4, 5), 1 / 20)
    assert metrics.sim(constant, density) == pytest.approx(np.minimum(uniform, density.values).sum())
    assert metrics.information_gain(constant, points(3), DensityMap(uniform)) == pytest.approx(0)


def test_ties_do_not_depend_on_the_pixels_order() -> None:
    prediction = np.array([[1, 1, 0, 0, 1, 0]])
    for order, place in (((0, 1, 2, 3, 4, 5), 0), ((1, 0, 2, 3, 4, 5), 1), ((5, 4, 3, 2, 1, 0), 5)):
        value = metrics.auc_judd(prediction[:, order], FixationPoints.from_pixels([0], [place], 1, 6))
        assert value == pytest.approx(1 - 0.4 / 2)  # ties with 2 of 5 others: a straight line to (2/5, 1)


def test_scale_and_type_do_not_matter() -> None:
    prediction, density, baseline, fixated, others = make_case("eight_bit")
    fixations, pool = (FixationPoints.from_pixels(*p, HEIGHT, WIDTH) for p in (fixated, others))

    def all_metrics(values: np.ndarray) -> list[float]:
        return [
            metrics.nss(values, fixations),
            metrics.auc_judd(values, fixations),
            metrics.auc_shuffled(values, fixations, pool),
            metrics.cc(values, DensityMap(density)),
            metrics.sim(values, DensityMap(density)),
            metrics.kld(values, DensityMap(density)),
            metrics.information_gain(values, fixations, DensityMap(baseline)),
        ]

    assert prediction.dtype == np.uint8  # sums of 8-bit numbers must not wrap around
    assert all_metrics(prediction) == pytest.approx(all_metrics(prediction.astype(np.float64) / 255), rel=1e-9)
    assert all_metrics(prediction.astype(np.float32)) == pytest.approx(all_metrics(prediction), rel=1e-9)


def test_eight_bit_density_map() -> None:
    density = np.round(255 * center_prior(24, 32).values / center_prior(24, 32).values.max()).astype(np.uint8)
    assert metrics.sim(density, DensityMap(density)) == pytest.approx(1)
    assert DensityMap(density).values.sum() == pytest.approx(1)


def test_types_are_told_apart() -> None:
    density, fixations = DensityMap(RAMP), points(3)
    for metric in (metrics.nss, metrics.auc_judd):
        with pytest.raises(TypeError, match=r"FixationPoints.*not with a DensityMap"):
            metric(RAMP, density)
        with pytest.raises(TypeError, match="not with a ndarray"):
            metric(RAMP, RAMP > 3)
    with pytest.raises(TypeError, match="not with a DensityMap"):
        metrics.auc_shuffled(RAMP, fixations, density)
    with pytest.raises(TypeError, match="not with a DensityMap"):
        metrics.information_gain(RAMP, density, density)
    for metric in (metrics.cc, metrics.sim, metrics.kld):
        with pytest.raises(TypeError, match=r"DensityMap.*not with a FixationPoints"):
            metric(RAMP, fixations)
    with pytest.raises(TypeError, match="prediction is a FixationPoints"):
        metrics.nss(fixations, fixations)


def test_sizes_must_match_for_density_maps_only() -> None:
    with pytest.raises(InputError, match="4x5, the density map 8x10: resize"):
        metrics.cc(RAMP, DensityMap(np.ones((8, 10)) + np.eye(8, 10)))
    # fixations have no size: the same points on a map of twice the size
    assert metrics.nss(np.kron(RAMP, np.ones((2, 2))), points(19, 4)) == pytest.approx(metrics.nss(RAMP, points(19, 4)))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="no fixation"):
        metrics.nss(RAMP, points())
    with pytest.raises(InputError, match="not finite"):
        metrics.nss(np.where(RAMP == 3, np.nan, RAMP), points(3))
    with pytest.raises(InputError, match="negative"):
        metrics.kld(RAMP - 1, DensityMap(RAMP))
    with pytest.raises(InputError, match="every pixel is fixated"):
        metrics.auc_judd(RAMP, points(*range(20)))
    with pytest.raises(InputError, match="two dimensions"):
        metrics.nss(RAMP[None], points(3))


def test_binary_fixation_maps() -> None:
    fixation_map = np.zeros((6, 8), np.uint8)
    fixation_map[2, 5] = fixation_map[0, 0] = 255
    fixations = FixationPoints.from_map(fixation_map)
    assert sorted(zip(*fixations.pixels(6, 8), strict=True)) == [(0, 0), (2, 5)]
    assert sorted(zip(*fixations.pixels(3, 4), strict=True)) == [(0, 0), (1, 2)]
    with pytest.raises(InputError, match="binary"):
        FixationPoints.from_map(resize_map(fixation_map, 12, 16))
    assert len(FixationPoints.from_map(np.zeros((6, 8)))) == 0


def test_points_at_the_edges_stay_inside() -> None:
    edges = FixationPoints(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert [tuple(p) for p in zip(*edges.pixels(192, 256), strict=True)] == [(191, 0), (0, 255)]
    with pytest.raises(InputError, match="outside 0 to 1"):
        FixationPoints(np.array([1.01]), np.array([0.5]))
    with pytest.raises(InputError, match="outside 0 to 1"):
        FixationPoints(np.array([np.nan]), np.array([0.5]))


def test_density_is_a_gaussian_around_each_fixation() -> None:
    one = FixationPoints.from_pixels([50], [60], 100, 120)
    density = DensityMap.from_fixations(one, 100, 120, sigma_pixels=4).values
    assert density.sum() == pytest.approx(1)
    assert density[50, 60] == density.max() == pytest.approx(1 / (2 * np.pi * 16), rel=1e-6)
    assert density[50, 64] / density[50, 60] == pytest.approx(np.exp(-0.5))
    twice = FixationPoints.from_pixels([50, 50, 20], [60, 60, 60], 100, 120)
    density = DensityMap.from_fixations(twice, 100, 120, sigma_pixels=4).values
    assert density[50, 60] == pytest.approx(2 * density[20, 60], rel=1e-6)
    with pytest.raises(InputError, match="at least one fixation"):
        DensityMap.from_fixations(FixationPoints(np.zeros(0), np.zeros(0)), 10, 10, 1)


def test_density_map_is_checked_and_resized() -> None:
    for bad in (np.zeros((3, 3)), np.full((3, 3), -1.0), np.full((3, 3), np.nan), np.ones(3)):
        with pytest.raises(InputError, match="density map"):
            DensityMap(bad)
    big = center_prior(360, 640)
    small = big.resized(192, 256)
    assert small.values.sum() == pytest.approx(1)
    assert np.corrcoef(small.values.ravel(), center_prior(192, 256).values.ravel())[0, 1] > 0.9999


def of_the_challenges(
    prediction: np.ndarray, density: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> list[float]:
    """CC, SIM, NSS and AUC-Judd as the AIM 2024 and NTIRE 2026 challenges on video saliency define them (bench.py of
    github.com/msu-video-group/ECCVW24_Saliency_Prediction and NTIRE26_Saliency_Prediction): both maps are scaled to 0
    to 1 first, all fixations count, and AUC's thresholds are the values at the fixations."""
    map_, truth = ((v - v.min()) / (v.max() - v.min()) for v in (prediction.astype(float), density.astype(float)))
    at = map_[rows, columns]
    order = np.sort(at)[::-1]
    detected = [0.0, *(np.arange(len(at)) + 1) / len(at), 1.0]
    above = np.array([(map_ >= value).sum() for value in order])
    alarms = [0.0, *(above - np.arange(len(at)) - 1) / (map_.size - 2), 1.0]
    return [
        np.corrcoef(map_.ravel(), truth.ravel())[0, 1],
        np.minimum(map_ / map_.sum(), truth / truth.sum()).sum(),
        ((map_ - map_.mean()) / map_.std())[rows, columns].mean(),
        np.trapezoid(detected, alarms),
    ]


@pytest.mark.parametrize("name", ["smooth", "eight_bit", "zeros_inside", "duplicates", "one_fixation"])
def test_agrees_with_the_video_saliency_challenges(name: str) -> None:
    prediction, density, _, (rows, columns), _ = make_case(name)
    fixations = FixationPoints.from_pixels(rows, columns, HEIGHT, WIDTH)
    ours = [
        metrics.cc(prediction, DensityMap(density)),
        metrics.sim(prediction, DensityMap(density)),
        metrics.nss(prediction, fixations),
        metrics.auc_judd(prediction, fixations),
    ]
    theirs = of_the_challenges(prediction, density, rows, columns)
    assert ours[:3] == pytest.approx(theirs[:3], rel=1e-9)
    # they count pixels that are fixated n times as n - 1 negatives less; these maps have few pixels, real ones 192x256
    assert ours[3] == pytest.approx(theirs[3], abs=len(rows) / prediction.size)


def test_change_is_the_share_that_moves() -> None:
    one = np.array([[3.0, 1.0, 0.0, 0.0]])
    assert metrics.change(one, 7 * one) == pytest.approx(0)
    assert metrics.change(one, np.array([[0, 0, 0, 9]])) == pytest.approx(1)
    assert metrics.change(one, np.array([[2, 2, 0, 0]])) == pytest.approx(0.25)
    with pytest.raises(InputError, match="1x4 and 4x5"):
        metrics.change(one, RAMP)
