"""What all operators that work on videos have in common: how they run, and how they are started."""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from tqdm import tqdm

from tinyhd.errors import TinyHDError

from . import forms
from .media import check_videos, dataset_of
from .progress import Progress, RunSummary
from .runs import HEARTBEAT_SECONDS
from .work import Watched

OF_THE_FORM = ("view_target", "no_stream", forms.ADVANCED, "panel_id", "panel_state")
"""What comes with an operator's parameters and is none."""


class VideoOperator(foo.Operator):
    """Work on videos, one after the other: with progress in the App, delegated, or for a caller that waits."""

    target = "Process"
    """What is done to the videos that the form lets choose."""
    opens = ""
    """The panel that shows what was made."""

    def work(self, ctx: foo.ExecutionContext, is_stopped: Callable[[], bool]) -> Generator[Progress, None, RunSummary]:
        """The work that the form asks for."""
        params = {name: value for name, value in ctx.params.items() if name not in OF_THE_FORM}
        return self.start(ctx.target_view(require_flat=True), params, is_stopped)

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        """The work on some videos."""
        raise NotImplementedError

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        """The form's own inputs."""
        raise NotImplementedError

    def shown(self, params: dict[str, Any]) -> list[str]:
        """Fields to show in the App afterwards."""
        return []

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        inputs.view_target(ctx, action_description=self.target, require_flat=True)
        samples = ctx.target_view(require_flat=True)
        try:
            check_videos(samples)
        except TinyHDError as error:
            forms.warning(inputs, "unusable", str(error))
        else:
            self.fill(ctx, inputs, samples)
        return types.Property(inputs, view=types.View(label=self.config.label))

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
        return Watched(dataset, self.config.label, self.shown(params), self.opens)

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


def work_config(**shown: str) -> foo.OperatorConfig:
    """Of a `VideoOperator`: its name, label, description and icon, and what all of them have in common."""
    return foo.OperatorConfig(
        **shown,
        dynamic=True,
        allow_immediate_execution=True,
        allow_delegated_execution=True,
        risk_level=types.RiskLevel.MEDIUM,
    )


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
