"""The panels: attention over time in the open video, and an overview of a dataset and its runs."""

from pathlib import Path
from typing import Any

import fiftyone.operators as foo
from fiftyone import ViewField as F
from fiftyone.operators import types

from .forms import describe_run
from .media import all_videos
from .runs import cancel, list_runs
from .settings import Fields

_NUMBERS = {
    "entropy_bits": "Entropy (bits)",
    "spread": "Spread (diagonals)",
    "center_share": "Share in the centre",
    "peak_speed": "Peak speed (diagonals/s)",
}
_OVER_TIME = ("entropy_bits", "spread", "peak_speed")
_COLORS = ("#ff6d04", "#499cef", "#6dbb3c")
_CURSOR = "#ffffff"
_LISTED = 5
_POINTS = 4000  # lines with more are thinned


class SaliencyOverTime(foo.Panel):
    """Numbers about attention in the open video, with the current frame marked."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="saliency_over_time",
            label="Saliency over time",
            icon="visibility",
            surfaces="modal",
            help_markdown="Entropy and spread are low where attention is focused; peak speed shows where it jumps. "
            "The white line is the current frame.",
        )

    def on_load(self, ctx: foo.ExecutionContext) -> None:
        runs = list_runs(ctx.dataset)
        fields = [run["field"] for run in runs]
        field = ctx.panel.get_state("choice.field")
        field = field if field in fields else (fields[0] if fields else None)
        ctx.panel.set_state("fields", fields)
        numbers, values = _frame_values(ctx, field) if field else ([], [])
        ctx.panel.set_state("has_values", bool(numbers))
        if not numbers:
            return
        traces: list[dict[str, Any]] = []
        step = -(-len(numbers) // _POINTS)
        for k, (name, column) in enumerate(zip(_OVER_TIME, values, strict=True)):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": _NUMBERS[name],
                    "x": numbers[::step],
                    "y": column[::step],
                    "yaxis": _axis(k),
                    "line": {"color": _COLORS[k], "width": 1.5},
                    "hovertemplate": "frame %{x}: %{y:.3f}<extra></extra>",
                }
            )
        # a line through all plots, on an axis of its own; playing the video moves it
        cursor = {"type": "scatter", "mode": "lines", "x": [1, 1], "y": [0, 1], "yaxis": "y9", "hoverinfo": "skip"}
        plot = [*traces, cursor | {"line": {"color": _CURSOR, "width": 1}}]
        frames = [[number, number] for number in range(numbers[-1] + 1)]
        loader = {"frames": frames, "signature": f"{ctx.current_sample}/{field}"}
        ctx.panel.set_data({"plot": plot, "frame_data": loader})  # at once: the App would lose the first of two

    def on_change_current_sample(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_choose(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_load_range(self, ctx: foo.ExecutionContext) -> None:
        """The cursor's places are all there from the start."""

    def render(self, ctx: foo.ExecutionContext) -> types.Property:
        panel = types.Object()
        fields = ctx.panel.get_state("fields") or []
        if not fields:
            panel.md("This dataset has no saliency yet: run **Compute saliency** from the samples grid.")
            return types.Property(panel)
        if len(fields) > 1:
            choice = types.Object()
            choice.enum("field", fields, default=fields[0], label="Run", on_change=self.on_choose)
            panel.define_property("choice", choice)
        if not ctx.panel.get_state("has_values"):
            panel.md("This video has no saliency yet.")
            return types.Property(panel)
        panel.obj("frame_data", view=types.FrameLoaderView(on_load_range=self.on_load_range, target="plot[3].x"))
        layout: dict[str, Any] = {
            "margin": {"l": 60, "r": 15, "t": 10, "b": 40},
            "plot_bgcolor": "rgba(0, 0, 0, 0)",  # or the cursor's plot would cover the others
            "xaxis": {"title": {"text": "Frame"}, "rangemode": "tozero", "anchor": _axis(len(_OVER_TIME) - 1)},
            "yaxis9": {"domain": [0, 1], "range": [0, 1], "visible": False, "fixedrange": True},
        }
        height = 1 / len(_OVER_TIME)
        for k, name in enumerate(_OVER_TIME):
            layout[_axis(k).replace("y", "yaxis")] = {
                "domain": [1 - (k + 1) * height + 0.02, 1 - k * height - 0.02],
                "title": {"text": _NUMBERS[name], "font": {"size": 11}},
                "rangemode": "tozero" if name == "peak_speed" else "normal",
            }
        panel.plot("plot", layout=layout, height="70vh", width="100%")
        return types.Property(panel, view=types.GridView(height=100, width=100, orientation="vertical"))


def _axis(k: int) -> str:
    """Plotly's name of the vertical axis of plot k, from the top."""
    return f"y{k + 1 if k else ''}"


def _frame_values(ctx: foo.ExecutionContext, field: str) -> tuple[list[int], list[list[float]]]:
    """Frame numbers of the open video, and its numbers over time."""
    if not ctx.current_sample or not ctx.dataset.has_frame_field(field):
        return [], []
    view = all_videos(ctx.dataset).select(ctx.current_sample)
    paths = [f"frames.{field}.{name}" for name in _OVER_TIME]
    columns = view.values(["frames.frame_number", *paths])
    if not columns[0]:
        return [], []
    rows = [row for row in zip(*(column[0] for column in columns), strict=True) if row[1] is not None]
    if not rows:
        return [], []
    numbers, *values = (list(column) for column in zip(*rows, strict=True))
    return numbers, values


class SaliencyOverview(foo.Panel):
    """A histogram over the dataset, its most and least focused videos, and its runs."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="saliency_overview",
            label="Saliency",
            icon="visibility",
            surfaces="grid",
            help_markdown="How focused attention is in the videos of this dataset. Click a bar to see its videos, "
            "a video's name to open it.",
        )

    def on_load(self, ctx: foo.ExecutionContext) -> None:
        runs = list_runs(ctx.dataset)
        fields = [run["field"] for run in runs]
        ctx.panel.set_state("fields", fields)
        rows = [{"field": run["field"], "about": describe_run(run)} for run in runs]
        ctx.panel.set_data("runs", rows)
        field = ctx.panel.get_state("choice.field")
        field = field if field in fields else (fields[0] if fields else None)
        number = ctx.panel.get_state("choice.number") or "entropy_bits"
        ctx.panel.set_state("shown", {"field": field, "number": number})
        stats = Fields(field).stats if field else ""
        if not field or not ctx.dataset.has_sample_field(stats):
            return
        view = all_videos(ctx.dataset)
        values = [value for value in view.values(f"{stats}.{number}") if value is not None]
        bars = {"type": "histogram", "x": values, "nbinsx": 30, "marker": {"color": _COLORS[0]}}
        ctx.panel.set_data("histogram", [bars | {"hovertemplate": "%{x}: %{y} videos<extra></extra>"}])
        known = view.match(F(f"{stats}.{number}") != None)  # noqa: E711 - an expression for the database
        for name, reverse in (("lowest", False), ("highest", True)):
            extreme = known.sort_by(f"{stats}.{number}", reverse=reverse).limit(_LISTED)
            found = zip(*extreme.values(["id", "filepath", f"{stats}.{number}"]), strict=True)
            table = [{"id": i, "video": Path(path).name, "value": f"{value:.3f}"} for i, path, value in found]
            ctx.panel.set_data(name, table)
            ctx.panel.set_state(f"ids.{name}", [row["id"] for row in table])

    def on_choose(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_change_dataset(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_refresh(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_bar(self, ctx: foo.ExecutionContext) -> None:
        """Show the videos of a bar of the histogram."""
        bounds, shown = ctx.params.get("range"), ctx.panel.get_state("shown")
        if bounds and shown:
            number = F(f"{Fields(shown['field']).stats}.{shown['number']}")
            ctx.ops.set_view(all_videos(ctx.dataset).match((number >= bounds[0]) & (number < bounds[1])))

    def on_all(self, ctx: foo.ExecutionContext) -> None:
        ctx.ops.clear_view()

    def on_lowest(self, ctx: foo.ExecutionContext) -> None:
        self._open(ctx, "lowest")

    def on_highest(self, ctx: foo.ExecutionContext) -> None:
        self._open(ctx, "highest")

    def _open(self, ctx: foo.ExecutionContext, name: str) -> None:
        ids, row = ctx.panel.get_state(f"ids.{name}") or [], ctx.params.get("row")
        if isinstance(row, int) and row < len(ids):
            ctx.ops.open_sample(id=ids[row])

    def on_cancel(self, ctx: foo.ExecutionContext) -> None:
        field = self._run(ctx)
        if field:
            asked = cancel(ctx.dataset, field)
            ctx.ops.notify("The run stops in a moment." if asked else "This run is not at work.")
            self.on_load(ctx)

    def on_delete(self, ctx: foo.ExecutionContext) -> None:
        """Ask first: the operator's form says what goes."""
        field = self._run(ctx)
        if field:
            ctx.prompt("@tinyhd/saliency/delete_saliency", params={"field": field}, on_success=self.on_refresh)

    def _run(self, ctx: foo.ExecutionContext) -> str | None:
        fields, row = ctx.panel.get_state("fields") or [], ctx.params.get("row")
        return fields[row] if isinstance(row, int) and row < len(fields) else None

    def render(self, ctx: foo.ExecutionContext) -> types.Property:
        panel = types.Object()
        fields, shown = ctx.panel.get_state("fields") or [], ctx.panel.get_state("shown") or {}
        if not fields:
            panel.md("This dataset has no saliency yet: run **Compute saliency** from the samples grid.")
            return types.Property(panel)
        choice = types.Object()
        choice.enum("field", fields, default=shown.get("field"), label="Run", on_change=self.on_choose)
        numbers = types.Dropdown()
        for name, label in _NUMBERS.items():
            numbers.add_choice(name, label=label)
        choice.enum(
            "number", numbers.values(), default="entropy_bits", view=numbers, label="Number", on_change=self.on_choose
        )
        panel.define_property("choice", choice, view=types.GridView(orientation="horizontal", gap=2))
        label = _NUMBERS[shown.get("number", "entropy_bits")]
        layout = {
            "margin": {"l": 50, "r": 15, "t": 10, "b": 45},
            "xaxis": {"title": {"text": label}},
            "yaxis": {"title": {"text": "Videos"}},
            "bargap": 0.05,
        }
        panel.plot("histogram", layout=layout, on_click=self.on_bar, height="30vh", width="100%")
        panel.btn("all", label="Show all videos", on_click=self.on_all, variant="outlined")
        for name, title, handler in (
            ("lowest", f"Lowest: {label}", self.on_lowest),
            ("highest", f"Highest: {label}", self.on_highest),
        ):
            table = types.TableView(title=title)
            table.add_column("video", label=title)
            table.add_column("value", label="")
            table.add_row_action(f"open_{name}", on_click=handler, label="Open", icon="open_in_new", tooltip="Open")
            panel.list(name, types.Object(), view=table)
        runs = types.TableView(title="Runs")
        runs.add_column("field", label="Run")
        runs.add_column("about", label="")
        runs.add_row_action("cancel", on_click=self.on_cancel, label="Cancel", icon="cancel", tooltip="Cancel")
        runs.add_row_action("delete", on_click=self.on_delete, label="Delete", icon="delete", tooltip="Delete")
        panel.list("runs", types.Object(), view=runs)
        panel.btn("refresh", label="Refresh", on_click=self.on_refresh, icon="refresh")
        return types.Property(panel, view=types.GridView(orientation="vertical", gap=2))
