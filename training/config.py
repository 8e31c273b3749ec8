"""The configuration of a training run: dataclasses, filled from YAML, stored in every checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from tinyhd.errors import InputError, OptionError
from tinyhd.network.config import TinyHDConfig
from training.data import Augmentation, PackSpec
from training.losses import LossWeights


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run.

    Raises:
        OptionError: a value is not allowed.
    """

    out: str
    """Folder of the run: checkpoints, logs, pictures."""
    packs: tuple[PackSpec, ...]
    """Clips to train on."""
    validation: tuple[PackSpec, ...] = ()
    """Clips whose loss decides which weights are the best; () keeps the last."""
    model: TinyHDConfig = field(default_factory=TinyHDConfig)
    backbone: str | None = None
    """ImageNet MobileNetV2 with BatchNorm folded, .npz (see `training.backbone`); None: random weights."""
    init: str | None = None
    """Name or path of a TinyHD model whose weights to start from instead."""
    narrow: str | None = None
    """Or name or path of one of channel reduction 1 that is narrowed to `model`, of 2 (see `training.narrow`)."""
    teachers: tuple[str, ...] = ()
    """Teachers that run while training, for packs without stored maps (see `training.teachers.load_teacher`)."""
    teacher_every: int = 1
    """Such a one-output teacher runs at every so many frames."""
    size: tuple[int, int] = (192, 256)
    """Height and width of the clips; multiples of 32."""
    auxiliary_ratio: float = 1.0
    """Auxiliary clips per labelled one."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossWeights = field(default_factory=LossWeights)
    steps: int = 1000
    """Updates of the weights."""
    batch: int = 4
    """Clips per update and process."""
    optimizer: str = "adamw"
    """adamw, or sgd as in the paper (momentum 0.9; biases at twice the rate, without decay)."""
    rate: float = 2e-3
    encoder_rate_scale: float = 0.3
    """The encoder's rate over `rate`; the paper's is 0.5."""
    weight_decay: float = 0.01
    frozen_layers: int = 0
    """The encoder's first so many of 19 layers keep their weights and norms' statistics: the finest layers cost the
    most, leaving 4 of them alone saves two fifths of a step."""
    norms: str = "batch"
    """Statistics of the norms: those of the batch, or fixed, which suits fine-tuning from `init` (see
    `training.fixed_norms`)."""
    schedule: str = "cosine"
    """cosine (to 1 % of the rate, after `warmup`), or steps as in the paper: x 0.1 at 50, 75 and 90 % of the run with
    the best weights so far reloaded."""
    warmup: int = 50
    """Updates over which the rate rises."""
    clip_norm: float = 5.0
    """Largest norm of the gradient."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is validated and kept; 0: none."""
    precision: str = "float32"
    """float32, or bfloat16 for the forward pass."""
    device: str = "auto"
    workers: int = 1
    """Processes that decode clips; 0: the training process does it."""
    seed: int = 0
    log_every: int = 10
    validate_every: int = 250
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("adamw", "sgd")),
            ("norms", ("batch", "fixed")),
            ("schedule", ("cosine", "steps")),
            ("precision", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")
        for name in ("steps", "batch", "log_every", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.frozen_layers <= 19:
            raise OptionError(f"frozen_layers is {self.frozen_layers}; it must be from 0 to 19.")
        if any(side % 32 for side in self.size):
            raise OptionError(f"size is {self.size}; both must be multiples of 32.")
        if not self.packs:
            raise OptionError("packs is empty; name at least one folder of clips.")
        if not self.teachers and any(p.teacher is None for p in (*self.packs, *self.validation)):
            raise OptionError(
                "a pack names no stored maps and there are no teachers; set its `teacher`, or `teachers`."
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, for YAML and checkpoints."""
        return asdict(self)


for _part in (TrainConfig, PackSpec, Augmentation, LossWeights, TinyHDConfig):
    with_config(ConfigDict(extra="forbid"))(_part)  # type: ignore[call-overload]
_ADAPTER = TypeAdapter(TrainConfig)


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """A configuration from plain values.

    Raises:
        OptionError: a name is unknown, or a value is not allowed.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the configuration"
        if first["type"] == "unexpected_keyword_argument":
            raise OptionError(f"there is no option {where!r}; see training/config.py for all names.") from error
        if first["type"] == "value_error":  # one of the checks above, a sentence of its own
            raise OptionError(str(first["ctx"]["error"])) from error
        raise OptionError(f"{where} is {first['input']!r}: {first['msg'].lower()}.") from error


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A configuration from a YAML file and overrides such as `steps=100` or `model.channel_reduction=4`.

    Raises:
        InputError: the file cannot be read as YAML.
        OptionError: a name is unknown, or a value is not allowed.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no `name: value` lines.")
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise OptionError(f"{override!r} is no override; write name=value, such as steps=100.")
        place = values
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(text)
    return config_from_dict(values)
