"""What a run is asked to do, checked, and in which fields of the dataset it keeps what it finds."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo

from tinyhd.errors import InputError, OptionError

DEFAULT_FIELD = "saliency"
DEVICES = ("auto", "cpu", "cuda", "mps")
NORMALIZATIONS = ("frame", "none")


@dataclass(frozen=True)
class Settings:
    """The choices of one run of `compute_saliency`.

    Raises:
        OptionError: a value that is not allowed.
    """

    field: str = DEFAULT_FIELD
    """Frame field for the heat maps; `Fields` says what else is written."""
    model: str | None = None
    """A name of `tinyhd.list_models()` or the path of a file; None: the model that comes with tinyhd."""
    device: str = "auto"
    stride: int = 1
    """A map is stored for every so many-th frame; frames between show the last one. The model sees all frames."""
    normalize: str = "frame"
    """What a map's brightest value, 255, stands for: the frame's own maximum, smoothed over a second (frame), or one
    value for all videos (none)."""
    maps_dir: str | None = None
    """Folder for the maps; None: beside the dataset's media."""
    detections: tuple[str, ...] = ()
    """Frame fields with detections that are told how much attention falls into them."""
    skip_existing: bool = True
    skip_failures: bool = False
    """Leave out videos that failed before."""

    def __post_init__(self) -> None:
        if not self.field.isidentifier() or self.field.startswith("_"):
            raise OptionError(f"{self.field!r} is no field name: use letters, digits and underscores.")
        if self.stride < 1:
            raise OptionError(f"the stride is {self.stride}; it must be 1 or more.")
        if self.normalize not in NORMALIZATIONS:
            raise OptionError(f"normalize is {self.normalize!r}; it must be one of {', '.join(NORMALIZATIONS)}.")

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "Settings":
        """From an operator's parameters; what is empty takes its default."""
        known = {name: params[name] for name in cls.__dataclass_fields__ if params.get(name) not in (None, "")}
        known["detections"] = tuple(known.get("detections", ()))
        return cls(**known)

    @property
    def outcome(self) -> dict[str, Any]:
        """The choices that decide what is stored; all videos of a field share them."""
        kept = asdict(self)
        for name in ("device", "maps_dir", "skip_existing", "skip_failures"):
            del kept[name]
        return kept | {"detections": sorted(self.detections)}


@dataclass(frozen=True)
class Fields:
    """The fields of one run, by the name that was chosen for the heat maps."""

    field: str

    FRAME_NUMBERS = ("peak_x", "peak_y", "spread", "entropy_bits", "center_share", "peak_speed")
    """Attributes of each heat map, and of each video's summary."""

    @property
    def heatmap(self) -> str:
        return f"frames.{self.field}"

    @property
    def stats(self) -> str:
        """Of the sample; written last, so a video that has it is complete."""
        return f"{self.field}_stats"

    @property
    def error(self) -> str:
        return f"{self.field}_error"

    def declare(self, dataset: fo.Dataset, detections: tuple[str, ...]) -> None:
        """Make sure that the dataset's schema has all of them."""
        if not dataset.has_frame_field(self.field):
            dataset.add_frame_field(self.field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
            for name in self.FRAME_NUMBERS:
                dataset.add_frame_field(f"{self.field}.{name}", fo.FloatField)
        if not dataset.has_sample_field(self.stats):
            dataset.add_sample_field(self.stats, fo.EmbeddedDocumentField, embedded_doc_type=fo.DynamicEmbeddedDocument)
            for name in (*self.FRAME_NUMBERS, "timing_error_seconds"):
                dataset.add_sample_field(f"{self.stats}.{name}", fo.FloatField)
            dataset.add_sample_field(f"{self.stats}.frame_count", fo.IntField)
            dataset.add_sample_field(f"{self.stats}.maps", fo.StringField)
            dataset.add_sample_field(f"{self.stats}.warnings", fo.ListField, subfield=fo.StringField)
        if not dataset.has_sample_field(self.error):
            dataset.add_sample_field(self.error, fo.StringField)
        for name in detections:
            path = f"{detection_path(dataset, name)}.{self.field}"
            if not dataset.has_field(path):
                dataset.add_frame_field(path.removeprefix("frames."), fo.FloatField)

    def taken(self, dataset: fo.Dataset) -> str | None:
        """The first of them that the dataset has."""
        if dataset.has_frame_field(self.field):
            return self.heatmap
        return next((name for name in (self.stats, self.error) if dataset.has_sample_field(name)), None)


def detection_fields(dataset: fo.Dataset) -> list[str]:
    """Frame fields that hold boxes."""
    schema = dataset.get_frame_field_schema(ftype=fo.EmbeddedDocumentField) or {}
    return [name for name, field in schema.items() if field.document_type in (fo.Detections, fo.Detection)]


def detection_path(dataset: fo.Dataset, name: str) -> str:
    """The path of the boxes in a frame field. Raises `OptionError` where it holds none."""
    if name not in detection_fields(dataset):
        raise OptionError(f"{name!r} is no frame field with detections.")
    document = dataset.get_field(f"frames.{name}").document_type
    return f"frames.{name}.detections" if document is fo.Detections else f"frames.{name}"


def model_identity(name: str | None) -> dict[str, str]:
    """The name of a model and the hash of its file, for the record.

    Raises:
        InputError: there is no such model or file.
    """
    from tinyhd.network.registry import DEFAULT_MODEL, MODELS

    name = name or DEFAULT_MODEL or ""
    if name in MODELS:
        info = MODELS[name]
        return {"model": name, "model_hash": f"sha256:{info.sha256}" if info.sha256 else f"git:{info.git_blob_id}"}
    try:
        return {"model": name, "model_hash": f"sha256:{hashlib.sha256(Path(name).read_bytes()).hexdigest()}"}
    except OSError as error:
        raise InputError(
            f"there is neither a model nor a readable file {name!r}; the names are {', '.join(MODELS)}."
        ) from error
