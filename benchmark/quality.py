"""How good models are, against people's fixations: run from the checkout as `python -m benchmark.quality --help`.

    python -m benchmark.quality --data DATA --models tinyhd-m weights/d123s_rc4_rc1T.pth center people

DATA holds folders with fixations.npz (see `training.fixations`): of videos all are scored, of images the last ones,
which no training used. A model is a name or file that tinyhd takes, or one of

    center   a Gaussian at the frame's center (see `training.fixations.center_prior`)
    people   the upper bound: the fixations of each viewer, predicted by those of all others
    unisal   UNISAL, run from the folder that --unisal names (see `training.unisal`): its video branch about five times
             a second, for images the weights tuned on MIT1003

All are run as users run them: own sampling rate, cross-faded windows, frames resized with antialiasing. Scores are
means over the frames of a video, then over videos, with 95 % intervals of a bootstrap over videos (or images): frames
of one video are not independent. Results are kept in the output file; what is there already is not computed again.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from tqdm import tqdm

from benchmark.costs import Costs, network_costs, tinyhd_cpu_time, unisal_costs, unisal_cpu_time
from tinyhd.errors import InputError, OptionError
from tinyhd.files import AtomicOutput
from tinyhd.inference.backends import open_backend
from tinyhd.network.config import MAP_HEIGHT, MAP_WIDTH
from tinyhd.network.registry import MODELS, find_model, git_blob_id
from tinyhd.options import InferenceOptions
from training import metrics
from training.commands import command
from training.evaluate import (
    Item,
    Predictor,
    Protocol,
    Sample,
    VideoScores,
    center_samples,
    evaluate_maps,
    image_items,
    video_items,
)
from training.fixations import (
    HELD_OUT_IMAGES,
    DensityMap,
    FixationPoints,
    center_prior,
    read_image_fixations,
    read_video_fixations,
)
from training.unisal import STILL_WEIGHTS, VIDEO_WEIGHTS, Unisal, load_unisal, maps_along

METRIC_VERSION = 1
"""Of what is computed here and in `training.metrics`: results of another version are computed again."""

COLUMNS = ("NSS", "AUC-Judd", "sAUC", "CC", "SIM", "KLD", "IG", "change")
"""As in `training.metrics`; `change` is from one frame of a video to the next."""

PRIOR_SHARE = 0.1
"""Of the center prior in the map that people predict each other with: others' fixations alone would call impossible
what nobody else has looked at."""

CONFIDENCE = 0.95
DRAWS = 2000

ItemScorer = Callable[[Item], VideoScores]


@dataclass(frozen=True)
class FixationSet:
    """The items of one set that are scored."""

    name: str
    items: list[Item]
    protocol: Protocol
    pool: Mapping[str, FixationPoints]
    """Fixations of each item by name: the others' are an item's negatives for the shuffled AUC."""
    hash: str
    """`sha256:...` of its fixations.npz."""

    @property
    def is_video(self) -> bool:
        """Whether its items are videos."""
        return not self.items[0].is_still


@dataclass(frozen=True)
class Contestant:
    """Somebody whose maps are scored."""

    label: str
    hash: str
    """Of what its maps depend on beside the data."""
    license: str
    open: Callable[[FixationSet], ItemScorer]
    """Loads it, and gives what scores an item."""
    costs: Callable[[], Costs] | None = None
    cpu_time: Callable[[Path], float] | None = None
    """CPU seconds for a second of a video."""


# ---- data


@dataclass(frozen=True)
class _WithPrevious(Protocol):
    """Also asks for the frame before each that is scored, to see how much maps change."""

    def scores(self, index: int) -> bool:
        return super().scores(index) or super().scores(index + 1)


def find_sets(data: Path) -> dict[str, Path]:
    """Folders below `data` with fixations.npz, by name in lower case.

    Raises:
        InputError: there is none.
    """
    found = {path.parent.name.lower(): path.parent for path in sorted(data.rglob("fixations.npz"))}
    if not found:
        raise InputError(f"{str(data)!r} holds no folder with fixations.npz.")
    return found


def read_set(folder: Path, protocol: Protocol) -> FixationSet:
    """The videos of a set, or its held-out images.

    Raises:
        InputError: it cannot be read, or holds out no image.
    """
    content = (folder / "fixations.npz").read_bytes()
    try:
        with np.load(folder / "fixations.npz") as file:
            is_video = "video_names" in file
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / 'fixations.npz')!r} cannot be read: {error}.") from error
    if is_video:
        items = video_items(read_video_fixations(folder), _WithPrevious(**asdict(protocol)))
    else:
        items = image_items(read_image_fixations(folder, "held-out"))
    if not items:
        raise InputError(f"{folder.name} holds out no image: all of them may have been used in training.")
    pool = {item.name: item.all_fixations() for item in items}
    return FixationSet(folder.name.lower(), items, protocol, pool, _sha256(content))


# ---- scores


def score_samples(item: Item, samples: Iterable[Sample], data: FixationSet) -> VideoScores:
    """The scores of a model's maps of one item: of the frames that the protocol names, and for the change of maps the
    frames before them."""
    samples = list(samples)
    scored = [sample for sample in samples if item.is_still or data.protocol.scores(sample.frame)]
    (result,) = evaluate_maps(scored, data.protocol, data.pool).videos or [VideoScores(item.name)]
    if result.scores:
        result.scores |= _change(samples, data.protocol)
    return result


def _change(samples: Sequence[Sample], protocol: Protocol) -> dict[str, float]:
    """`change`, between successive frames that both have enough fixations, so that people's is known too; nothing where
    there are none."""
    enough = [sample for sample in samples if len(sample.fixations) >= protocol.min_fixations]
    changes = [metrics.change(a.map, b.map) for a, b in pairwise(enough) if b.frame == a.frame + 1]
    return {"change": float(np.mean(changes))} if changes else {}


def leave_one_out(
    points: FixationPoints, others: FixationPoints | None, sigma_pixels: float
) -> dict[str, float] | None:
    """How well people predict each other in one frame: the map of all but one viewer, scored with the fixations of that
    one, averaged over the fixations.

    Scores of map against map (CC, SIM, KLD) are left out: the map of one viewer is no truth that others' numbers could
    be compared with.

    Args:
        others: negatives for the shuffled AUC.
        sigma_pixels: blur of a fixation, in pixels of 192x256.

    Returns:
        by metric; None where fewer than two viewers can be told apart.
    """
    if points.viewer is None or len(viewers := np.unique(points.viewer)) < 2:
        return None
    prior = center_prior(MAP_HEIGHT, MAP_WIDTH)
    own = [FixationPoints(points.x[mine], points.y[mine]) for mine in (points.viewer == v for v in viewers)]
    # a density has the sum 1: weighted by its fixations, they add up to everybody's
    maps = [len(p) * DensityMap.from_fixations(p, MAP_HEIGHT, MAP_WIDTH, sigma_pixels).values for p in own]
    everybody = np.sum(maps, 0)
    scores: list[dict[str, float]] = []
    for fixations, mine in zip(own, maps, strict=True):
        rest = np.maximum(everybody - mine, 0)
        prediction = (1 - PRIOR_SHARE) * metrics.as_probability(rest) + PRIOR_SHARE * prior.values
        scores.append(
            {
                "NSS": metrics.nss(prediction, fixations),
                "AUC-Judd": metrics.auc_judd(prediction, fixations),
                **({} if others is None else {"sAUC": metrics.auc_shuffled(prediction, fixations, others)}),
                "IG": metrics.information_gain(prediction, fixations, prior),
            }
        )
    weights = [len(fixations) for fixations in own]
    return {name: float(np.average([score[name] for score in scores], weights=weights)) for name in scores[0]}


def score_people(item: Item, data: FixationSet) -> VideoScores:
    """The upper bound for one item; the change is that of everybody's map."""
    sigma = data.protocol.density_sigma_pixels
    negatives = FixationPoints.joined(points for name, points in data.pool.items() if name != item.name)
    samples, rows = [], []
    result = VideoScores(item.name)
    for frame, truth in item.frames():
        if truth is None:
            continue
        is_scored = item.is_still or data.protocol.scores(frame.index)
        if len(truth.fixations) < data.protocol.min_fixations:
            continue
        density = DensityMap.from_fixations(truth.fixations, MAP_HEIGHT, MAP_WIDTH, sigma)
        samples.append(Sample(item.name, density.values, truth.fixations, density, frame.index))
        if is_scored and (row := leave_one_out(truth.fixations, negatives if len(negatives) else None, sigma)):
            rows.append(row)
    result.frames_scored = len(rows)
    if rows:
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        result.scores = means | _change(samples, data.protocol)
    return result


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of independent values, one for each video or image: bias-corrected and accelerated
    bootstrap (Efron 1987). None for fewer than three values."""
    if len(values) < 3:
        return None
    if np.ptp(values) < 1e-12:
        return values[0], values[0]
    found = bootstrap((values,), np.mean, confidence_level=CONFIDENCE, n_resamples=DRAWS, random_state=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


# ---- contestants


def center() -> Contestant:
    """The center prior."""
    return Contestant("center prior", "center", "", lambda data: lambda i: score_samples(i, center_samples(i), data))


def people() -> Contestant:
    """The upper bound."""
    return Contestant("people (upper bound)", "people", "", lambda data: lambda item: score_people(item, data))


def tinyhd_model(name: str, inference: InferenceOptions) -> Contestant:
    """A model of the registry, or a file. A file that the registry knows has its name and license there.

    Raises:
        WeightsError: there is no such model.
    """
    file = find_model(name)
    info = MODELS.get(name)
    if info is None:
        blob = git_blob_id(file.read())
        known = [i for i in MODELS.values() if f"sha256:{i.sha256}" == file.hash or i.git_blob_id == blob]
        info = known[0] if known else None
    options = replace(inference, model=name)

    def opened(data: FixationSet) -> ItemScorer:
        predictor = Predictor(open_backend(options), options)
        return lambda item: score_samples(item, predictor(item), data)

    settings = json.dumps({**asdict(options), "model": None}, sort_keys=True)
    return Contestant(
        info.name if info else Path(name).stem,
        f"{file.hash} {settings}",
        info.license if info else "not known",
        opened,
        lambda: network_costs(name),
        lambda video: tinyhd_cpu_time(video, options),
    )


def unisal_model(folder: Path) -> Contestant:
    """UNISAL.

    Raises:
        WeightsError: its files are not in `folder`.
    """
    networks = [load_unisal(folder, weights) for weights in (VIDEO_WEIGHTS, STILL_WEIGHTS)]
    unisal = Unisal(*networks, size=(MAP_HEIGHT, MAP_WIDTH))

    def samples(item: Item) -> Iterator[Sample]:
        at = None if item.is_still or item.path is None else maps_along(unisal, item.path, pages=False)[0]
        for frame, truth in item.frames():
            if truth is not None:
                saliency = unisal.of_image(frame.to_rgb()) if at is None else at(frame.index)
                yield Sample(item.name, saliency.numpy(), *truth, frame.index)

    weights = [folder / "training_runs/pretrained_unisal" / name for name in (VIDEO_WEIGHTS, STILL_WEIGHTS)]
    return Contestant(
        "UNISAL",
        " ".join(_sha256(path.read_bytes()) for path in weights),
        "Apache-2.0",
        lambda data: lambda item: score_samples(item, samples(item), data),
        lambda: unisal_costs(unisal),
        lambda video: unisal_cpu_time(unisal, video),
    )


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# ---- results


class Results:
    """The output file: scores by model, set and everything that they depend on.

    Args:
        path: read where it is there.

    Raises:
        InputError: it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self.costs: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                content = json.loads(path.read_text())
                self.entries, self.costs = content["scores"], content["costs"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{str(path)!r} holds no results of this benchmark: name another file.") from error

    def find(self, contestant: Contestant, data: FixationSet) -> dict[str, Any] | None:
        """The scores, where they are there."""
        key = _key(contestant, data)
        return next((entry for entry in self.entries if entry["key"] == key), None)

    def add(self, contestant: Contestant, data: FixationSet, videos: Sequence[VideoScores]) -> dict[str, Any]:
        """Keep the scores; the file has them when this returns."""
        names = [name for name in COLUMNS if any(name in video.scores for video in videos)]
        values = {name: [video.scores[name] for video in videos if name in video.scores] for name in names}
        entry = {
            "model": contestant.label,
            "license": contestant.license,
            "set": data.name,
            "is_video": data.is_video,
            "mean": {name: float(np.mean(values[name])) for name in names},
            "interval": {name: interval(values[name]) for name in names},
            "frames_scored": sum(video.frames_scored for video in videos),
            "items": [{"name": v.name, "frames_scored": v.frames_scored, "scores": v.scores} for v in videos],
            "key": _key(contestant, data),
        }
        self.entries.append(entry)
        self.write()
        return entry

    def write(self) -> None:
        """Raises `OutputError` where that is not possible."""
        with AtomicOutput(self.path, overwrite=True) as output:
            content = {"confidence": CONFIDENCE, "scores": self.entries, "costs": self.costs}
            output.temporary.write_text(json.dumps(content, indent=1) + "\n")


def _key(contestant: Contestant, data: FixationSet) -> dict[str, Any]:
    return {
        "model": contestant.hash,
        "set": data.name,
        "fixations": data.hash,
        "protocol": asdict(data.protocol),
        "metric_version": METRIC_VERSION,
    }


# ---- tables


Table = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Entries of `Results` by set, then by model."""


def markdown(table: Table, costs: Mapping[str, Mapping[str, Any]]) -> str:
    """All tables: models by sets, then costs, then each set with all metrics."""
    models = list(next(iter(table.values())))
    header = ["NSS / CC", *map(str.upper, table)]
    rows = [[model, *(_nss_cc(table[data].get(model)) for data in table)] for model in models]
    parts = [_table(header, rows)]
    priced = [model for model in models if model in costs]
    if priced:
        header = ["", "parameters", "multiply-adds for a second at 25 fps", "license"]
        timed = any("cpu_seconds_per_second" in costs[model] for model in priced)
        rows = []
        for model in priced:
            cost = costs[model]
            millions, billions = cost["parameters"] / 1e6, cost["multiply_adds_per_second"] / 1e9
            rows.append([model, f"{millions:.2f} million", f"{billions:.1f} billion", cost["license"]])
            if timed:
                rows[-1].append(f"{cost['cpu_seconds_per_second']:.3f}" if "cpu_seconds_per_second" in cost else "-")
        parts.append(_table([*header, *(["CPU seconds for a second of video"] if timed else [])], rows))
    for data, entries in table.items():
        first = next(iter(entries.values()))
        what = f"{len(first['items'])} {'videos' if first['is_video'] else 'images'}"
        frames = max(entry["frames_scored"] for entry in entries.values())
        counted = f"{what}, {frames} frames" if first["is_video"] else what
        columns = [name for name in COLUMNS if any(name in entry["mean"] for entry in entries.values())]
        header = [f"{data.upper()}: {counted}", *columns, f"NSS less {models[0]}'s"]
        rows = [
            [model, *(_cell(entry, name) for name in columns), _difference(entry, entries.get(models[0]))]
            for model, entry in entries.items()
        ]
        parts.append(_table(header, rows))
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _nss_cc(entry: Mapping[str, Any] | None) -> str:
    if not entry or "NSS" not in entry["mean"]:
        return "-"
    mean = entry["mean"]
    return f"{mean['NSS']:.2f} / {mean['CC']:.3f}" if "CC" in mean else f"{mean['NSS']:.2f} / -"


def _cell(entry: Mapping[str, Any], name: str) -> str:
    if name not in entry["mean"]:
        return "-"
    digits = 2 if name in ("NSS", "KLD", "IG") else 4 if name == "change" else 3
    text = f"{entry['mean'][name]:.{digits}f}"
    found = entry["interval"][name] if name in ("NSS", "CC") else None
    return f"{text} ({found[0]:.{digits}f} to {found[1]:.{digits}f})" if found else text


def _difference(entry: Mapping[str, Any], first: Mapping[str, Any] | None) -> str:
    """Of two models on the same items: much surer than the scores themselves."""
    if first is None or first is entry or "NSS" not in entry["mean"]:
        return "-"
    base = {item["name"]: item["scores"].get("NSS") for item in first["items"]}
    pairs = [(item["scores"].get("NSS"), base.get(item["name"])) for item in entry["items"]]
    values = [one - two for one, two in pairs if one is not None and two is not None]
    found = interval(values)
    return f"{np.mean(values):+.2f}" + (f" ({found[0]:+.2f} to {found[1]:+.2f})" if found else "")


# ---- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmark.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", required=True, metavar="MODEL", help="a name, a file, center, people or unisal")
    add("--data", type=Path, required=True, metavar="FOLDER", help="holds, at any depth, folders with fixations.npz")
    add("--sets", nargs="+", metavar="SET", help="names of such folders, in any case (default: all that hold out some)")
    add("--frames-every", type=int, default=Protocol().every, metavar="N",
        help="frames of a video from one scored frame to the next (%(default)s)")  # fmt: skip
    add("--first", type=int, default=Protocol().first, metavar="N", help="first frame that is scored (%(default)s)")
    add("--unisal", type=Path, metavar="FOLDER", help="3rd_party_libs/unisal, unzipped, for the model unisal")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    add("--time", type=Path, metavar="VIDEO", help="also measure the CPU time of each model on this video, alone")
    add("--output", type=Path, default=Path("quality.json"), metavar="FILE",
        help="results, added to where it is there (%(default)s)")  # fmt: skip
    add("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    return parser


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    found: dict[str, Contestant] = {}
    for name in options.models:
        if name == "center":
            contestant = center()
        elif name == "people":
            contestant = people()
        elif name == "unisal":
            if options.unisal is None:
                raise OptionError("the model unisal needs --unisal FOLDER: see python -m training.unisal --help.")
            contestant = unisal_model(options.unisal)
        else:
            contestant = tinyhd_model(name, InferenceOptions(device=options.device))
        if contestant.label in found:
            raise OptionError(f"two models are called {contestant.label}: rename one of the files.")
        found[contestant.label] = contestant
    return list(found.values())


def _folders(data: Path, names: Sequence[str] | None) -> list[Path]:
    found = find_sets(data)
    if names is None:
        return [folder for name, folder in found.items() if HELD_OUT_IMAGES.get(name, 1)]
    for name in names:
        if name.lower() not in found:
            raise OptionError(f"there is no set {name!r} in {str(data)!r}; there are {', '.join(found)}.")
    return [found[name.lower()] for name in names]


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    options = _parser().parse_args(arguments)
    protocol = Protocol(options.first, options.frames_every)
    results = Results(options.output)
    contestants = _contestants(options)
    sets = [read_set(folder, protocol) for folder in _folders(options.data, options.sets)]
    if options.sets is None:
        sets.sort(key=lambda data: not data.is_video)
    table: dict[str, dict[str, Any]] = {data.name: {} for data in sets}
    for contestant in contestants:
        _add_costs(results, contestant, options.time)
        for data in sets:
            entry = results.find(contestant, data)
            if entry is None:
                score = contestant.open(data)
                bar = tqdm(data.items, desc=f"{contestant.label}, {data.name}", unit="item")
                entry = results.add(contestant, data, [score(item) for item in bar])
            table[data.name][contestant.label] = entry
    if not any(entry["mean"] for entries in table.values() for entry in entries.values()):
        raise InputError(f"no frame has {protocol.min_fixations} fixations: lower --frames-every or --first.")
    text = markdown(table, results.costs)
    print(text)
    if options.markdown:
        with AtomicOutput(options.markdown, overwrite=True) as output:
            output.temporary.write_text(text + "\n")


def _add_costs(results: Results, contestant: Contestant, video: Path | None) -> None:
    if contestant.costs is None:
        return
    known = results.costs.get(contestant.label, {})
    key = {"model": contestant.hash, "metric_version": METRIC_VERSION}
    if known.get("key") != key:
        known = {"license": contestant.license, **asdict(contestant.costs()), "key": key}
    if video is not None and contestant.cpu_time is not None:
        print(f"{contestant.label}: measuring CPU time", file=sys.stderr)
        known = {**known, "cpu_seconds_per_second": contestant.cpu_time(video)}
    results.costs[contestant.label] = known
    results.write()


main = command(run, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
