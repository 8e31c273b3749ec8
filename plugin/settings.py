"""What the operators are asked to do, checked, and in which fields of the dataset a run keeps what it finds."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import fiftyone as fo

import tinyhd
from tinyhd.applications.report import ATTENDED_SHARE
from tinyhd.choices import Options, choices, convert, field_types, option
from tinyhd.errors import OptionError
from tinyhd.options import (
    EncoderOptions,
    InferenceOptions,
    MomentOptions,
    ReframeOptions,
    RenderOptions,
    RoiOptions,
)
from tinyhd.render.colors import color_table
from tinyhd.video.roi import check_roi_encoder

DEFAULT_FIELD = "saliency"

_COMPUTES_ONLY = ("model", "device", "backend", "precision", "batch_size")
"""Inference options that decide where and how fast; the model is known by its hash besides."""


class Parameters(Options):
    """Base of an operator's parameters: its own options, and those of groups of options, all side by side."""

    @classmethod
    def groups(cls) -> dict[str, type[Options]]:
        """Its fields that are groups of options."""
        kinds = field_types(cls)
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Options)}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """From names and values, text included; what is None or empty takes its default.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        left = {name: value for name, value in params.items() if value is not None and value != ""}
        kinds, groups, given = field_types(cls), cls.groups(), {}
        for name, kind in groups.items():
            given[name] = kind.from_mapping({key: left.pop(key) for key in field_types(kind) if key in left})
        known = [name for name in kinds if name not in groups]
        known += [name for kind in groups.values() for name in field_types(kind)]
        for name, value in left.items():
            if name not in known:
                raise OptionError(f"there is no parameter {name!r}; the parameters are {', '.join(known)}.")
            is_list = typing.get_origin(kinds[name]) is tuple
            given[name] = tuple(value) if is_list else convert(name, value, kinds[name])
        return cls(**given)


def check_model(inference: InferenceOptions) -> None:
    """Raises `OptionError` where there is no such model; its file is not read."""
    name = inference.model
    if name is not None and name not in tinyhd.list_models() and not Path(name).is_file():
        raise OptionError(
            f"the model {name!r} is neither a name nor a readable file; names are {', '.join(tinyhd.list_models())}."
        )


def _check_name(name: str, what: str) -> None:
    if not name.isidentifier() or name.startswith("_"):
        raise OptionError(f"{name!r} is not a {what}: use letters, digits and underscores.")


@dataclass(frozen=True)
class Settings(Parameters):
    """The choices of one run of `compute_saliency`.

    Raises:
        OptionError: a value that is not allowed.
    """

    field: str = option(
        DEFAULT_FIELD, "name for the heat maps on the frames; statistics of each video go into NAME_stats"
    )
    stride: int = option(
        1,
        "store a map every N frames; statistics are stored for each frame, and frames between show the last map",
        minimum=1,
    )
    normalize: str = dataclasses.field(default="frame", metadata={"choice": choices(RenderOptions)["normalize"]})
    maps_dir: str | None = option(None, "folder on the server for the maps")
    detections: tuple[str, ...] = option(
        (), "each detection of these fields gets the share of the frame's attention inside its box"
    )
    skip_existing: bool = option(True, "skip videos that are done")
    skip_failures: bool = option(False, "skip videos that failed before")
    inference: InferenceOptions = dataclasses.field(default_factory=InferenceOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name(self.field, "field name")

    @property
    def outcome(self) -> dict[str, Any]:
        """The choices that decide what is stored, besides the model; all videos of a field share them."""
        own = {"stride": self.stride, "normalize": self.normalize, "detections": sorted(self.detections)}
        return own | seen(self.inference.to_dict())


def seen(inference: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the inference options that decide what a given model sees."""
    return {name: value for name, value in inference.items() if name not in _COMPUTES_ONLY}


_NEW_VIDEOS = "the new videos' paths go into the field NAME_path, a media field that the App can show"


@dataclass(frozen=True)
class FileSettings(Parameters):
    """The choices of operators that make files of videos.

    Raises:
        OptionError: a value that is not allowed.
    """

    action: ClassVar[str]
    """Of the `Job` for each video."""

    name: str = option("", "name")
    output_dir: str | None = option(None, "folder on the server for what is made")
    inference: InferenceOptions = dataclasses.field(default_factory=InferenceOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name(self.name, "name for a field or slice")

    @property
    def error_field(self) -> str:
        return f"{self.name}_error"


@dataclass(frozen=True)
class VideoSettings(FileSettings):
    """The choices of operators that make videos."""

    skip_existing: bool = option(True, "skip videos that are done")
    encoder: EncoderOptions = dataclasses.field(default_factory=EncoderOptions)

    @property
    def path_field(self) -> str:
        return f"{self.name}_path"

    @property
    def source_field(self) -> str:
        """Of new samples: the id of the sample that they were made from."""
        return f"{self.name}_source"


@dataclass(frozen=True)
class RenderSettings(VideoSettings):
    """The choices of `render_saliency`."""

    action = "annotate"
    name: str = option("annotated", _NEW_VIDEOS)
    reencode: bool = option(False, "first make videos playable, as “Make videos playable” does")
    render: RenderOptions = dataclasses.field(default_factory=RenderOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        color_table(self.render)


@dataclass(frozen=True)
class ReframeSettings(VideoSettings):
    """The choices of `reframe_videos`."""

    action = "reframe"
    name: str = option("reframed", _NEW_VIDEOS)
    results: str = option(
        "media field",
        "where the new videos go: beside the old ones as a media field, or into the dataset as samples of their own",
        allowed=("media field", "new samples"),
    )
    keep: tuple[str, ...] = option((), "the crop has to hold all detections of these fields")
    boxes: bool = option(True, "show the crop on the source: a detection on each frame, in the field NAME_crop")
    crop: ReframeOptions = dataclasses.field(default_factory=ReframeOptions)

    @property
    def crop_field(self) -> str:
        """Of samples: the file with the crop's path; of frames: the crop."""
        return f"{self.name}_crop"


@dataclass(frozen=True)
class EncodeSettings(VideoSettings):
    """The choices of `encode_videos`."""

    action = "encode"
    name: str = option("encoded", _NEW_VIDEOS)
    roi: RoiOptions = dataclasses.field(default_factory=RoiOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_roi_encoder(self.encoder)


@dataclass(frozen=True)
class MomentSettings(FileSettings):
    """The choices of `moments`."""

    action = "moments"
    name: str = option("moments", "field for the key moments, and for spans of focused and scattered attention")
    pictures: bool = option(False, "write a picture of each key moment, and a sheet with all of them: NAME_sheet")
    skip_existing: bool = option(True, "skip videos that are done")
    moments: MomentOptions = dataclasses.field(default_factory=MomentOptions)

    @property
    def sheet_field(self) -> str:
        """The file with the pictures of all moments."""
        return f"{self.name}_sheet"


@dataclass(frozen=True)
class ReportSettings(FileSettings):
    """The choices of `report`."""

    action = "analyze"
    name: str = option("report", "to find it again; one of the same name is replaced")
    title: str | None = option(None, "of the page")
    detections: tuple[str, ...] = option(
        (),
        "each label of these detections is a region of the report, and each index of it where they are tracked",
    )
    threshold: float = option(
        ATTENDED_SHARE,
        "share of the attention from which on a region counts as attended",
        minimum=0.001,
        maximum=0.999,
        advanced=True,
    )


@dataclass(frozen=True)
class PlayableSettings(Parameters):
    """The choices of `reencode_videos`."""

    output_dir: str | None = option(None, "folder on the server for the copies")


CROP = "The crop, as reframe_videos has made it"
MOMENTS = "Key moments and spans, as moments has found them"
"""Descriptions of such fields, by which they are known again."""

STATISTICS = {
    "focus": "Focus: share of the attention on the most attended twentieth of the picture, percent; 5 is none, 100 all",
    "entropy_bits": "Entropy in bits: low where attention is gathered; at most 15.6",
    "spread": "Spread: root mean square distance from the center of attention, in picture diagonals",
    "center_share": "Share of the attention in the middle half of width and height, 0 to 1",
    "peak_x": "Where most attention is, 0 at the left edge to 1 at the right one",
    "peak_y": "Where most attention is, 0 at the top to 1 at the bottom",
    "peak_speed": "How fast the place of most attention moves, in picture diagonals per second",
}
"""What is stored of each heat map, and as a mean of each video."""


@dataclass(frozen=True)
class Fields:
    """The fields of one run, by the name that was chosen for the heat maps."""

    field: str

    @property
    def heatmap(self) -> str:
        return f"frames.{self.field}"

    @property
    def stats(self) -> str:
        """Of the sample; written last, so a video that has it is complete."""
        return f"{self.field}_stats"

    @property
    def moments(self) -> str:
        """Of the sample: key moments, and spans of focused and scattered attention."""
        return f"{self.field}_moments"

    @property
    def error(self) -> str:
        return f"{self.field}_error"

    def declare(self, dataset: fo.Dataset, detections: tuple[str, ...]) -> None:
        """Make sure that the dataset's schema has all of them, described, and indexed so that “Sort by” offers them."""
        if not dataset.has_frame_field(self.field):
            about = "Where people look, predicted by TinyHD"
            dataset.add_frame_field(
                self.field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap, description=about
            )
            for name, about in STATISTICS.items():
                dataset.add_frame_field(f"{self.field}.{name}", fo.FloatField, description=about)
        if not dataset.has_sample_field(self.stats):
            about = "Attention in the whole video: means over its frames"
            document = fo.DynamicEmbeddedDocument
            dataset.add_sample_field(
                self.stats, fo.EmbeddedDocumentField, embedded_doc_type=document, description=about
            )
            for name, about in STATISTICS.items():
                dataset.add_sample_field(f"{self.stats}.{name}", fo.FloatField, description=about)
                dataset.create_index(f"{self.stats}.{name}")
            dataset.add_sample_field(f"{self.stats}.frame_count", fo.IntField, description="Frames of the video")
            dataset.add_sample_field(f"{self.stats}.maps", fo.StringField, description="Folder of the maps")
            dataset.add_sample_field(f"{self.stats}.filled_metadata", fo.BooleanField)
            about = "What was met while the video was read"
            dataset.add_sample_field(f"{self.stats}.warnings", fo.ListField, subfield=fo.StringField, description=about)
        if not dataset.has_sample_field(self.moments):
            about = "Key moments, and spans in which attention is focused or scattered"
            dataset.add_sample_field(
                self.moments, fo.EmbeddedDocumentField, embedded_doc_type=fo.TemporalDetections, description=about
            )
        if not dataset.has_sample_field(self.error):
            dataset.add_sample_field(self.error, fo.StringField, description="Why saliency failed")
        for name in detections:
            path = f"{detection_path(dataset, name)}.{self.field}"
            if not dataset.has_field(path):
                about = "Share of the frame's attention inside the box"
                dataset.add_frame_field(path.removeprefix("frames."), fo.FloatField, description=about)

    @property
    def of_samples(self) -> tuple[str, ...]:
        return (self.stats, self.moments, self.error)

    def taken(self, dataset: fo.Dataset) -> str | None:
        """The first of them that the dataset has."""
        if dataset.has_frame_field(self.field):
            return self.heatmap
        return next((name for name in self.of_samples if dataset.has_sample_field(name)), None)


def detection_fields(dataset: fo.Dataset) -> list[str]:
    """Frame fields that hold boxes, besides the crops that `reframe_videos` has made."""
    schema = dataset.get_frame_field_schema(ftype=fo.EmbeddedDocumentField) or {}
    boxes = {name: field for name, field in schema.items() if field.document_type in (fo.Detections, fo.Detection)}
    return [name for name, field in boxes.items() if field.description != CROP]


def detection_path(dataset: fo.Dataset, name: str) -> str:
    """The path of the boxes in a frame field. Raises `OptionError` where it holds none."""
    if name not in detection_fields(dataset):
        raise OptionError(f"{name!r} is no frame field with detections.")
    document = dataset.get_field(f"frames.{name}").document_type
    return f"frames.{name}.detections" if document is fo.Detections else f"frames.{name}"
