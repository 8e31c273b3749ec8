"""The panels: attention over time in the open video, and an overview of a dataset, its runs and the work going on."""

from pathlib import Path
from typing import Any

import fiftyone.operators as foo
from fiftyone import ViewField as F
from fiftyone.operators import types

from .forms import describe_run
from .media import THUMBNAIL, all_videos
from .runs import cancel, list_runs
from .settings import Fields
from .work import forget_ended, list_work, stop

_STATISTICS = {
    "focus": ("Focus (5 to 100)", "Most focused", "Most scattered"),
    "entropy_bits": ("Entropy (bits)", "Most scattered", "Most focused"),
    "spread": ("Spread (diagonals)", "Most spread", "Least spread"),
    "center_share": ("Share in the center", "Most in the center", "Least in the center"),
    "peak_speed": ("Peak speed (diagonals/s)", "Fastest", "Calmest"),
}
"""Labels: of a statistic, and of the videos with most and least of it."""
_OVER_TIME = {"focus": None, "spread": None, "peak_speed": 0.0}
"""What is plotted, and where its axis begins."""
_COLORS = ("#ff6d04", "#499cef", "#6dbb3c")
_LISTED = 5
_POINTS = 2000  # lines with more are thinned
_POLL_MS, _IDLE_POLL_MS = 1500, 10_000
_NOTHING = "This dataset has no saliency yet: run **Compute saliency** from the samples grid."


def _complete_first(ctx: foo.ExecutionContext) -> list[str]:
    """The fields of all runs, complete ones first, then the newest."""
    return [run["field"] for run in sorted(list_runs(ctx.dataset), key=lambda run: run["state"] != "completed")]


def _chosen(ctx: foo.ExecutionContext, fields: list[str]) -> str | None:
    field = ctx.panel.get_state("choice.field")
    return field if field in fields else (fields[0] if fields else None)


class SaliencyOverTime(foo.Panel):
    """Statistics of attention in the open video, with the current frame marked; a click goes to that time."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="saliency_over_time",
            label="Saliency over time",
            icon="visibility",
            surfaces="modal",
            help_markdown="Focus is high where attention is gathered; peak speed shows where it jumps. The vertical "
            "line is the current frame; click anywhere to go to that time.",
        )

    def on_load(self, ctx: foo.ExecutionContext) -> None:
        fields = _complete_first(ctx)
        field = _chosen(ctx, fields)
        ctx.panel.set_state("fields", fields)
        plot = _plot(ctx, field) if field else None
        ctx.panel.set_state("has_values", plot is not None)
        if plot:
            ctx.panel.set_data("plot", plot)

    def on_change_current_sample(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_choose(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def render(self, ctx: foo.ExecutionContext) -> types.Property:
        panel = types.Object()
        fields = ctx.panel.get_state("fields") or []
        if not fields:
            panel.md(_NOTHING)
            return types.Property(panel)
        if len(fields) > 1:
            choice = types.Object()
            choice.enum("field", fields, default=fields[0], label="Run", on_change=self.on_choose)
            panel.define_property("choice", choice)
        if not ctx.panel.get_state("has_values"):
            panel.md("This video has no saliency yet.")
            return types.Property(panel)
        panel.obj("plot", view=types.View(component="TinyHDSaliencyOverTime", composite_view=True))
        return _as_wide(panel, pad=0)


def _plot(ctx: foo.ExecutionContext, field: str) -> dict[str, Any] | None:
    """What the plot shows of the open video; None: it has no saliency."""
    if not ctx.current_sample or not ctx.dataset.has_frame_field(field):
        return None
    view = all_videos(ctx.dataset).select(ctx.current_sample)
    paths = [f"frames.{field}.{name}" for name in _OVER_TIME]
    [rate, numbers, *columns] = (
        found[0] for found in view.values(["metadata.frame_rate", "frames.frame_number", *paths])
    )
    rows = [row for row in zip(numbers or (), *columns, strict=True) if row[1] is not None]
    if not rows:
        return None
    step = -(-len(rows) // _POINTS)
    numbers, *values = zip(*rows[::step], strict=True)
    lines = [
        {"name": _STATISTICS[name][0], "color": color, "values": column, "from": low}
        for (name, low), column, color in zip(_OVER_TIME.items(), values, _COLORS, strict=True)
    ]
    return {"rate": rate or 25, "first": numbers[0], "step": step, "lines": lines}


class SaliencyOverview(foo.Panel):
    """The work going on, a histogram over the dataset, its most and least focused videos, and its runs."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="saliency_overview",
            label="Saliency",
            icon="visibility",
            surfaces="grid",
            help_markdown="How focused attention is in the videos of this dataset, and the work going on. Click a bar "
            "to see its videos, a video to open it.",
        )

    def on_load(self, ctx: foo.ExecutionContext) -> None:
        self._follow(ctx)
        runs = list_runs(ctx.dataset)
        fields = _complete_first(ctx)
        ctx.panel.set_state("fields", fields)
        ctx.panel.set_state("runs", [{"field": run["field"], "state": run["state"]} for run in runs])
        ctx.panel.set_data("runs", [{"field": run["field"], "about": describe_run(run)} for run in runs])
        field = _chosen(ctx, fields)
        name = ctx.panel.get_state("choice.statistic") or "focus"
        shown: dict[str, Any] = {"field": field, "statistic": name, "most": [], "least": []}
        stats = Fields(field).stats if field else ""
        if field and ctx.dataset.has_sample_field(stats):
            path = f"{stats}.{name}"
            known = all_videos(ctx.dataset).match(F(path) != None)  # noqa: E711 - an expression for the database
            values = known.values(path)
            bars = {"type": "histogram", "x": values, "nbinsx": 30, "marker": {"color": _COLORS[0]}}
            ctx.panel.set_data("histogram", [bars | {"hovertemplate": "%{x}: %{y} videos<extra></extra>"}])
            for key, reverse in (("most", True), ("least", False)):
                extreme = known.sort_by(path, reverse=reverse).limit(_LISTED)
                found = zip(*extreme.values(["id", "filepath", path, f"{stats}.maps"]), strict=True)
                shown[key] = [
                    {"id": i, "name": Path(video).name, "value": f"{value:.3g}", "picture": f"{maps}/{THUMBNAIL}"}
                    for i, video, value, maps in found
                ]
        ctx.panel.set_state("shown", shown)
        for key in ("most", "least"):
            ctx.panel.set_data(key, shown[key])

    def on_choose(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_change_dataset(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_refresh(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    # ---- the work going on

    def _follow(self, ctx: foo.ExecutionContext) -> bool:
        """Look where the work is; whether some has ended since the last look."""
        before = {entry["key"] for entry in ctx.panel.get_state("work") or [] if entry["state"] == "running"}
        work = list_work(ctx.dataset)
        ctx.panel.set_state("work", work)
        ended = [entry for entry in work if entry["key"] in before and entry["state"] != "running"]
        for entry in ended:
            variant = "success" if entry["state"] == "ended" else "error"
            ctx.ops.notify(entry["label"].partition("\n")[0], variant=variant)
        if ended:
            ctx.ops.reload_dataset()
            fields = [field for entry in ended for field in entry["fields"]]
            for opens in {entry["opens"] for entry in ended if entry["state"] == "ended" and entry["opens"]}:
                ctx.ops.open_panel(opens, is_active=True, force=True)
            ctx.ops.set_active_fields(list(dict.fromkeys([*(ctx.active_fields or ()), *fields])))
        return bool(ended)

    def on_tick(self, ctx: foo.ExecutionContext) -> None:
        known = ctx.panel.get_state("work") or []
        if self._follow(ctx) or len(known) != len(list_work(ctx.dataset)):
            self.on_load(ctx)

    def on_stop(self, ctx: foo.ExecutionContext) -> None:
        stop(ctx.dataset, ctx.params["key"])
        ctx.ops.notify("It stops in a moment; what is complete stays.")

    def on_clear(self, ctx: foo.ExecutionContext) -> None:
        forget_ended(ctx.dataset)
        self._follow(ctx)

    # ---- videos

    def on_bar(self, ctx: foo.ExecutionContext) -> None:
        """Show the videos of a bar of the histogram."""
        bounds, shown = ctx.params.get("range"), ctx.panel.get_state("shown")
        if bounds and shown:
            value = F(f"{Fields(shown['field']).stats}.{shown['statistic']}")
            ctx.ops.set_view(all_videos(ctx.dataset).match((value >= bounds[0]) & (value < bounds[1])))

    def on_all(self, ctx: foo.ExecutionContext) -> None:
        ctx.ops.clear_view()

    # ---- runs

    def on_cancel(self, ctx: foo.ExecutionContext) -> None:
        field = self._run(ctx)
        if field:
            asked = cancel(ctx.dataset, field)
            ctx.ops.notify("The run stops in a moment." if asked else "This run is not at work.")
            self.on_load(ctx)

    def on_continue(self, ctx: foo.ExecutionContext) -> None:
        """The form, with the settings of the run."""
        field = self._run(ctx)
        if field:
            ctx.prompt("@tinyhd/saliency/compute_saliency", params={"field": field}, on_success=self.on_refresh)

    def on_delete(self, ctx: foo.ExecutionContext) -> None:
        """Ask first: the operator's form says what goes."""
        field = self._run(ctx)
        if field:
            ctx.prompt("@tinyhd/saliency/delete_saliency", params={"field": field}, on_success=self.on_refresh)

    def _run(self, ctx: foo.ExecutionContext) -> str | None:
        runs, row = ctx.panel.get_state("runs") or [], ctx.params.get("row")
        return runs[row]["field"] if isinstance(row, int) and row < len(runs) else None

    def render(self, ctx: foo.ExecutionContext) -> types.Property:
        panel = types.Object()
        work = ctx.panel.get_state("work") or []
        running = [entry for entry in work if entry["state"] == "running"]
        panel.view("timer", types.TimerView(interval=_POLL_MS if running else _IDLE_POLL_MS, on_interval=self.on_tick))
        for entry in work:
            percent = f" · {100 * entry['fraction']:.0f} %" if entry in running else f" · {entry['state']}"
            panel.md(f"**{entry['title']}**{percent}\n\n{entry['label']}", name=f"work_{entry['key']}")
            if entry in running:
                params = {"key": entry["key"]}
                panel.btn(
                    f"stop_{entry['key']}", label="Cancel", on_click=self.on_stop, params=params, variant="outlined"
                )
        if len(work) > len(running):
            panel.btn("clear", label="Clear", on_click=self.on_clear)
        fields, shown = ctx.panel.get_state("fields") or [], ctx.panel.get_state("shown") or {}
        if not fields:
            panel.md(_NOTHING if not running else "")
            return _as_wide(panel)
        choice = types.Object()
        choice.enum("field", fields, default=shown.get("field"), label="Run", on_change=self.on_choose)
        statistics = types.Dropdown()
        for name, labels in _STATISTICS.items():
            statistics.add_choice(name, label=labels[0])
        label, *ends = _STATISTICS[shown.get("statistic", "focus")]
        offered = statistics.values()
        choice.enum("statistic", offered, default="focus", view=statistics, label="Statistic", on_change=self.on_choose)
        panel.define_property("choice", choice, view=types.GridView(orientation="horizontal", gap=2))
        if shown.get("most"):
            layout = {
                "margin": {"l": 50, "r": 15, "t": 10, "b": 45},
                "xaxis": {"title": {"text": label}},
                "yaxis": {"title": {"text": "Videos"}, "tickformat": ",d", "rangemode": "tozero"},
                "bargap": 0.05,
            }
            if len(ctx.panel.get_state("shown")["most"]) < _LISTED:
                layout["yaxis"]["dtick"] = 1  # few videos: no fractions of one
            panel.plot("histogram", layout=layout, on_click=self.on_bar, height="30vh", width="100%")
            panel.btn("all", label="Show all videos", on_click=self.on_all, variant="outlined")
        for key, title in zip(("most", "least"), ends, strict=True):
            if shown.get(key):
                panel.md(f"**{title}**", name=f"title_{key}")
                panel.obj(key, view=types.View(component="TinyHDVideos", composite_view=True))
        runs = types.TableView(title="Runs")
        runs.add_column("field", label="Run")
        runs.add_column("about", label="")
        runs.add_row_action(
            "continue",
            on_click=self.on_continue,
            label="Continue",
            icon="play_arrow",
            tooltip="Go on with more videos",
        )
        runs.add_row_action("cancel", on_click=self.on_cancel, label="Cancel", icon="cancel", tooltip="Cancel")
        runs.add_row_action("delete", on_click=self.on_delete, label="Delete", icon="delete", tooltip="Delete")
        panel.list("runs", types.Object(), view=runs)
        panel.btn("refresh", label="Refresh", on_click=self.on_refresh, icon="refresh")
        return _as_wide(panel)


class SaliencyReports(foo.Panel):
    """The reports about videos of a dataset, one at a time."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="saliency_reports",
            label="Saliency reports",
            icon="summarize",
            surfaces="grid",
            help_markdown="Pages that “Saliency report” has made. They are files that need nothing else: pass them on.",
        )

    def on_load(self, ctx: foo.ExecutionContext) -> None:
        from .reports import list_reports

        reports = {record["name"]: record["html"] for record in list_reports(ctx.dataset)}
        names = list(reports)
        chosen = ctx.panel.get_state("choice.name")
        ctx.panel.set_state("names", names)
        if names:
            ctx.panel.set_data("report", {"file": reports[chosen if chosen in reports else names[0]]})

    def on_choose(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def on_change_dataset(self, ctx: foo.ExecutionContext) -> None:
        self.on_load(ctx)

    def render(self, ctx: foo.ExecutionContext) -> types.Property:
        panel = types.Object()
        names = ctx.panel.get_state("names") or []
        if not names:
            panel.md("This dataset has no report yet: select videos and run **Saliency report** (backquote key).")
            return _as_wide(panel)
        if len(names) > 1:
            choice = types.Object()
            choice.enum("name", names, default=names[0], label="Report", on_change=self.on_choose)
            panel.define_property("choice", choice)
        panel.obj("report", view=types.View(component="TinyHDReport", composite_view=True))
        return _as_wide(panel, pad=0)


def _as_wide(panel: types.Object, pad: int = 2) -> types.Property:
    """What is in a panel, as wide as the panel and no wider, whatever it is: a table would make it so."""
    one_column = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
    view = types.GridView(orientation="vertical", gap=2, pad=pad, componentsProps=one_column)
    return types.Property(panel, view=view)
