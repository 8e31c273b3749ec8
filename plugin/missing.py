"""What stands in for the operators where the package `tinyhd` is not installed: they say what to do."""

import fiftyone.operators as foo
from fiftyone.operators import types

SENTENCE = (
    "The package tinyhd is not installed in FiftyOne's environment: run "
    "`fiftyone plugins requirements @tinyhd/saliency --install`, then start the App again."
)


class _Missing(foo.Operator):
    name_and_label = ("", "")

    @property
    def config(self) -> foo.OperatorConfig:
        name, label = self.name_and_label
        return foo.OperatorConfig(name=name, label=label, description=SENTENCE, dynamic=True)

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        prop = inputs.view("missing", types.Error(label="tinyhd is not installed", description=SENTENCE))
        prop.invalid = True
        return types.Property(inputs)

    def execute(self, ctx: foo.ExecutionContext) -> None:
        raise ImportError(SENTENCE)


class ComputeSaliency(_Missing):
    name_and_label = ("compute_saliency", "Compute saliency: attention heatmaps of where people look")


class RenderSaliency(_Missing):
    name_and_label = ("render_saliency", "Render saliency: heatmap videos")


ALL = (ComputeSaliency, RenderSaliency)
