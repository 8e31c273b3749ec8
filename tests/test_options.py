"""Options: what is allowed, from Python and from text."""

import dataclasses
from typing import Any

import pytest

from tinyhd.choices import Options, choices
from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions
from tinyhd.pipeline.batch import Job

GROUPS = (InferenceOptions, RenderOptions, EncoderOptions)


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_is_described(group: type[Options]) -> None:
    known = choices(group)
    assert list(known) == [field.name for field in dataclasses.fields(group)]
    for name, choice in known.items():
        assert len(choice.help) > 10, name
        assert not choice.help.endswith("."), name


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (InferenceOptions, {"backend": "numba"}, "backend is 'numba'; it must be one of auto, openvino, torch."),
        (InferenceOptions, {"device": "gpu"}, "there is no device 'gpu'; it must be auto, cpu, cuda, cuda:N or mps."),
        (InferenceOptions, {"batch_size": 0}, "batch_size is 0; it must be 1 or more."),
        (InferenceOptions, {"overlap": 16}, "overlap is 16; it must be 0 to 15."),
        (InferenceOptions, {"overlap": -1}, "overlap is -1; it must be 0 to 15."),
        (InferenceOptions, {"windowing": "hann"}, "windowing is 'hann'; it must be one of crossfade, published."),
        (InferenceOptions, {"sampling_rate": float("nan")}, "sampling_rate is nan; it must be 0 or more."),
        (InferenceOptions, {"overlap": 4, "windowing": "published"}, "overlap is for cross-faded windows"),
        (RenderOptions, {"opacity": 1.5}, "opacity is 1.5; it must be 0 to 1."),
        (RenderOptions, {"opacity": float("nan")}, "opacity is nan; it must be 0 to 1."),
        (RenderOptions, {"normalize": "some"}, "normalize is 'some'; it must be one of frame, video, none."),
        (RenderOptions, {"style": "poster"}, "style is 'poster'; it must be one of overlay, heatmap"),
        (EncoderOptions, {"codec": "divx"}, "codec is 'divx'"),
        (EncoderOptions, {"ffmpeg_args": "-tune film"}, "name one with ffmpeg"),
    ],
)
def test_values_that_are_not_allowed(group: type[Options], values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        group(**values)
    assert message in str(caught.value)


def test_from_text() -> None:
    values = {"batch_size": "2", "cuts": "no", "sampling_rate": "12.5", "model": "", "overlap": None}
    assert InferenceOptions.from_mapping(values) == InferenceOptions(batch_size=2, cuts=False, sampling_rate=12.5)
    assert InferenceOptions.from_mapping(InferenceOptions(overlap=3).to_dict()) == InferenceOptions(overlap=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strid": 5}, "there is no option 'strid'; the options are model, device"),
        ({"batch_size": "few"}, "batch_size is 'few'; it must be a whole number."),
        ({"batch_size": 1.5}, "batch_size is 1.5; it must be a whole number."),
        ({"batch_size": True}, "batch_size is True; it must be a whole number."),
        ({"sampling_rate": "inf"}, "sampling_rate is 'inf'; it must be a number."),
        ({"cuts": "maybe"}, "cuts is 'maybe'; it must be yes or no."),
    ],
)
def test_text_that_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        InferenceOptions.from_mapping(values)
    assert message in str(caught.value)


def test_no_program_is_named_from_elsewhere() -> None:
    assert EncoderOptions(ffmpeg="/usr/bin/ffmpeg").ffmpeg
    for values in ({"ffmpeg": "/bin/sh"}, {"ffmpeg": "/bin/sh", "ffmpeg_args": "-c true"}):
        with pytest.raises(OptionError, match="ffmpeg runs a program, so it can be given on the command line and in"):
            EncoderOptions.from_mapping(values)
        with pytest.raises(OptionError, match="runs a program"):
            Job.from_mapping({"input": "a.mp4", **values})


def test_the_opacity_of_a_style() -> None:
    assert RenderOptions("spotlight").effective_opacity == 0.75
    assert RenderOptions("spotlight", opacity=0.2).effective_opacity == 0.2


def test_a_job_from_a_row() -> None:
    job = Job.from_mapping({"input": "a.mp4", "style": "heatmap", "overlap": "2", "crf": "30", "stats": ""})
    assert (job.render.style, job.inference.overlap, job.encoder.crf, job.stats) == ("heatmap", 2, 30.0, None)
    with pytest.raises(OptionError, match="there is no option 'normalise'"):
        Job.from_mapping({"input": "a.mp4", "normalise": "none"})
    with pytest.raises(OptionError, match="the action is 'dance'"):
        Job.from_mapping({"input": "a.mp4", "action": "dance"})
