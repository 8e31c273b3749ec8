"""What all operators that work on videos have in common: how they run, and how they are started."""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, ClassVar

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from tqdm import tqdm

from tinyhd.errors import TinyHDError
from tinyhd.options import InferenceOptions

from . import forms
from .media import check_videos, dataset_of, default_folder
from .progress import Progress, RunSummary, describe_error
from .runs import HEARTBEAT_SECONDS
from .settings import Parameters, VideoSettings, check_model
from .work import Watched

OF_THE_FORM = ("view_target", "no_stream", forms.ADVANCED, "panel_id", "panel_state")
"""What comes with an operator's parameters and is none."""


Work = Callable[..., Generator[Progress, None, RunSummary]]
"""`work(samples, settings, is_stopped=...)` does an operator's work."""


class VideoOperator(foo.Operator):
    """Work on videos, one after the other: with progress in the App, delegated, or for a caller that waits."""

    shown_as: ClassVar[dict[str, str]]
    """Name, label, description and icon."""
    target: ClassVar[str]
    """What is done to the videos that the form lets choose."""
    parameters: ClassVar[type[Parameters]]
    blamed: ClassVar[str] = "name"
    """The input that is marked where an error names none."""
    folder: ClassVar[str] = ""
    """Where files go, beside the media; none: as the parameter `name`."""
    opens: ClassVar[str] = ""
    """The panel that shows what was made."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            **self.shown_as,
            dynamic=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def work_of(self) -> Work:
        """What does the work; imported when it is needed only."""
        raise NotImplementedError

    def made_fields(self, params: dict[str, Any]) -> list[str]:
        """Fields to show in the App afterwards."""
        return []

    def work(self, ctx: foo.ExecutionContext, is_stopped: Callable[[], bool]) -> Generator[Progress, None, RunSummary]:
        """The work that the form asks for."""
        params = {name: value for name, value in ctx.params.items() if name not in OF_THE_FORM}
        return self.start(ctx.target_view(require_flat=True), params, is_stopped)

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        """The work on some videos."""
        return self.work_of()(samples, self.parameters.from_params(params), is_stopped=is_stopped)

    # ---- the form

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        inputs.view_target(ctx, action_description=self.target, require_flat=True)
        samples = ctx.target_view(require_flat=True)
        try:
            check_videos(samples)
        except TinyHDError as error:
            forms.warning(inputs, "unusable", describe_error(error))
        else:
            self.fill(ctx, inputs, samples)
        return types.Property(inputs, view=types.View(label=self.config.label))

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        """The form's own inputs."""
        self.ask(ctx, inputs, samples)

    def ask(
        self,
        ctx: foo.ExecutionContext,
        inputs: types.Object,
        samples: SampleCollection,
        earlier: dict[str, Any] | None = None,
    ) -> Any:
        """Inputs for all parameters; what the form holds, or None where something is wrong with it, which it tells.

        Args:
            earlier: values of what is left empty, in the place of the parameters' own.
        """
        first = samples.limit(1).values("filepath")
        folder = self.folder or ctx.params.get("name") or self.parameters.name
        beside = default_folder(ctx.dataset, first[0], folder) if first else "beside the media"
        described = dict.fromkeys(("maps_dir", "output_dir"), f"on the server; if none is named: {beside}")
        labels, without = {}, ()
        if ctx.dataset.media_type == "group" and issubclass(self.parameters, VideoSettings):
            labels["name"], described["name"] = "Group slice", "the new videos become this slice of each group"
            without = ("results",)
        made = forms.parameter_inputs(ctx, inputs, self.parameters, labels, described, without, earlier or {})
        given = {k: value for k, value in ctx.params.items() if k not in OF_THE_FORM and value not in (None, "")}
        try:
            settings = self.parameters.from_params((earlier or {}) | given)
            self.validate(ctx.dataset, settings)
        except TinyHDError as error:
            sentence = describe_error(error)
            forms.warning(inputs, "problem", sentence)
            if field := made.get(next((name for name in made if name in sentence.split()), self.blamed)):
                field.invalid, field.error_message = True, sentence
            return None
        return settings

    def validate(self, dataset: fo.Dataset, settings: Any) -> None:
        """Raises `TinyHDError` where the work could not begin."""
        if InferenceOptions in self.parameters.groups().values():
            check_model(settings.inference)

    # ---- ways to run it

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property | None:
        # nothing where the work goes on by itself: the panel shows it, and the App stays free
        return summary_form() if ctx.results else None

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        watched = self._watch(ctx.dataset, ctx.params)
        if ctx.delegated or ctx.params.get("no_stream"):

            def report(progress: Progress) -> None:
                if ctx.delegated:
                    ctx.set_progress(progress.fraction, progress.label)

            return watched.run(partial(self.work, ctx), report, _DelegatedOperation(ctx)).to_dict()
        watched.run_aside(partial(self.work, ctx))
        ctx.ops.open_panel("saliency_overview", is_active=True, layout="horizontal")
        return {}

    def _watch(self, dataset: fo.Dataset, params: dict[str, Any]) -> Watched:
        return Watched(dataset, self.config.label, self.made_fields(params), self.opens)

    def __call__(self, samples: SampleCollection, *, delegate: bool = False, **params: Any) -> Any:
        """Do the work from Python, with a progress bar.

        Args:
            samples: a dataset or view of videos.
            delegate: queue it for a worker instead (`fiftyone delegated launch`).
            **params: the names of the form's inputs.

        Returns:
            what was done, a dict with a "summary"; with `delegate`, the queued operation's `ExecutionResult`.
        """
        if delegate:
            return queue(self, samples, params)
        with tqdm(total=1.0, bar_format="{l_bar}{bar}| {desc}", disable=None) as bar:

            def report(progress: Progress) -> None:
                bar.set_description_str(progress.label, refresh=False)
                bar.update(progress.fraction - bar.n)

            watched = self._watch(dataset_of(samples), params)
            return watched.run(partial(self.start, samples, params), report).to_dict()


class _DelegatedOperation:
    """Whether a delegated operation has been taken from its worker, such as with `fiftyone delegated fail`."""

    def __init__(self, ctx: foo.ExecutionContext) -> None:
        self._id = ctx.request_params.get("run_doc")
        self._service = DelegatedOperationService()
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        if self._id is None or time.monotonic() - self._asked < HEARTBEAT_SECONDS:
            return False
        self._asked = time.monotonic()
        return self._service.get(self._id).run_state != ExecutionRunState.RUNNING


def summary_form(label: str = "Done") -> types.Property:
    outputs = types.Object()
    outputs.str("summary", label=label, view=types.MarkdownView(read_only=True))
    return types.Property(outputs, view=types.View(label="Saliency"))


def queue(operator: foo.Operator, samples: SampleCollection | fo.Dataset, params: dict[str, Any]) -> Any:
    """Queue an operation for a worker."""
    return foo.execute_operator(operator.uri, {"view": samples.view()}, params=params, request_delegation=True)
