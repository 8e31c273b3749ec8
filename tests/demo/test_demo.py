"""The demo without a browser: limits, kept files, looking, drawing, what the player is told, and the safety net."""

import json
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import REQUIRE_ALL

if not REQUIRE_ALL:
    pytest.importorskip("gradio", reason="the demo's extra is not installed")

import av
import gradio as gr
from fakes import GrayModel, as_picture
from makers import HEIGHT, WIDTH, external_reference, make_video, playlist, read_barcode, rotated, still

from demo import downloads, work
from demo.__main__ import login_from
from demo.actions import Actions, clean_errors, ready, sizes, working
from demo.downloads import canonical, encode, finish, make
from demo.jobs import JobStore
from demo.limits import Limits, TooLongError, public_sentence
from demo.moments import most_attended, plot_line
from demo.offline import _upload_of, without_foreign_addresses
from demo.waiting import WaitingLine
from demo.work import Models, Step, analyze
from tinyhd.errors import InputError, OptionError
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions, RoiOptions
from tinyhd.saliency.focus import smoothed_curve
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.playback import browser_plays
from tinyhd.video.reader import open_video, probe, read_frames

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "bunny.mp4"


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()


class StubModels:
    """`Models` with a model that costs nothing and counts how often it was asked for."""

    options, default = InferenceOptions(), "tinyhd-m"

    def __init__(self):
        self.model = GrayModel()

    def get(self, name):
        return self.model

    def warm_up(self):
        return ["tinyhd-m"]


def looked_at(store, path, limits=None):
    """A job whose maps are kept, and its steps."""
    job = store.create(path)
    steps = list(analyze(job, GrayModel(), limits or Limits(), RenderOptions(), InferenceOptions()))
    return job, steps


# ---- limits and sentences


def test_limits_say_what_is_wrong(tmp_path):
    limits = Limits(megabytes=1, seconds=0.5)
    video = make_video(tmp_path / "long.mp4", 24)
    with pytest.raises(InputError, match=r"1 seconds long; up to 0\.5 seconds are taken here: cut it shorter"):
        limits.check_video(probe(video))
    limits.check_size(video)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(3 * 2**20))
    with pytest.raises(InputError, match="3 MB, more than the 1 MB"):
        limits.check_size(large)
    with pytest.raises(InputError, match="192x128 pixels, which is too large"):
        Limits(pixels=1000).check_video(probe(video))


def test_limit_of_frames_holds_whatever_the_header_says(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Limits, "check_video", lambda *_: None)
    video = make_video(tmp_path / "x.mkv", 24)
    limits = Limits(seconds=10, frame_rate=1)
    assert limits.frames == 10
    job = store.create(video)
    with pytest.raises(InputError, match="more than 10 frames"):
        list(analyze(job, GrayModel(), limits, RenderOptions(), InferenceOptions()))
    assert not job.ready()


@pytest.mark.parametrize(
    ("message", "public"),
    [
        ("'/tmp/a b/clip.mp4' is empty.", "'clip.mp4' is empty."),
        ('"/tmp/it\'s/clip.mp4" is empty.', "'clip.mp4' is empty."),
        ("'C:\\\\Users\\\\me\\\\clip.mp4' is empty.", "'clip.mp4' is empty."),
        ("cannot open /home/me/secret/clip.mp4 now", "Cannot open clip.mp4 now"),
        ("'<img src=x onerror=1>.mp4' is empty.", "'<img src=x onerror=1>.mp4' is empty."),
        ("48/96 frames", "48/96 frames"),
    ],
)
def test_public_sentences_have_no_folders(message, public):
    assert public_sentence(InputError(message)) == public


def test_errors_of_the_api_have_no_tags():
    with pytest.raises(gr.Error, match=r"^\"'&lt;b&gt;.mp4' is empty.\"$"), clean_errors():
        raise InputError("'<b>.mp4' is empty.")


# ---- files


def test_jobs_go_when_old_or_too_many_but_not_while_used(tmp_path):
    now = [0.0]
    store = JobStore(tmp_path / "jobs", max_jobs=2, max_age_seconds=100, clock=lambda: now[0])
    source = tmp_path / "a b.mp4"
    source.write_bytes(b"x")
    first = store.create(source)
    assert first.stem == "a-b"
    assert first.source.read_bytes() == b"x"
    source.unlink()
    assert first.source.exists()
    with store.using(first.name):
        for _ in range(3):
            now[0] += 1
            store.create(first.source)
        assert first.folder.exists()
        assert len(store) == 3
        now[0] += 1000
        store.prune()
        assert len(store) == 1
        store.discard(first.name)
        assert first.folder.exists()
    store.discard(first.name)
    assert list(store.root.iterdir()) == []
    with pytest.raises(InputError, match="no longer kept"), store.using(first.name):
        pass
    store.close()
    assert not store.root.exists()


def test_names_of_jobs_cannot_be_guessed_and_names_of_files_are_plain(store, tmp_path):
    source = tmp_path / 'q"<b>%&;.mp4'
    source.write_bytes(b"x")
    names = {store.create(source).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) >= 24 for name in names)
    assert store.create(source).source.name == "q-b.mp4"


# ---- looking


def test_the_model_that_comes_with_the_package(store):
    models = Models()
    assert "tinyhd-m" in models.warm_up()
    assert models.get("tinyhd-m") is models.get("tinyhd-m")
    job = store.create(EXAMPLE.parents[1] / "demo" / "page" / "bunny.jpg")
    list(analyze(job, models.get("tinyhd-m"), Limits(), RenderOptions(), InferenceOptions()))
    assert job.track.display_scale == models.get("tinyhd-m").display_scale
    assert job.stats[0].peak > 0


def test_looking_keeps_maps_numbers_and_cuts_of_every_frame(store, tmp_path):
    video = make_video(tmp_path / "clip.mp4", 40, transform=lambda rgb, k: rgb if k < 20 else 255 - rgb)
    job, steps = looked_at(store, video)
    assert steps[0].done == 0
    assert steps[0].picture.startswith(b"\xff\xd8")
    assert (steps[-1].done, steps[-1].total) == (40, 40)
    assert steps[-1].frames_per_second > 0
    with SaliencyTrack(job.track_file) as track:
        maps = list(track.maps_at(track.times))
        assert track.cuts.tolist() == [pytest.approx(0.8)]
    assert len(maps) == len(job.stats) == 40
    assert [read_barcode(as_picture(m)) for m in maps[:20]] == list(range(20))
    assert job.table.read_text().count("\n") == 41
    assert job.original == job.source
    assert not job.is_copy


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", ".mp4"), ("mpeg4", ".avi")])
def test_what_browsers_do_not_play_gets_a_copy(store, tmp_path, codec, suffix):
    video = make_video(tmp_path / f"clip{suffix}", 10, codec=codec)
    job, _ = looked_at(store, video)
    assert job.is_copy
    with open_video(job.original) as copy:
        assert (copy.info.codec, copy.info.source_pix_fmt) == ("h264", "yuv420p")
        assert [read_barcode(frame.to_rgb()) for frame in copy] == list(range(10))
    assert "every browser plays" in json.loads(ready(job))["notes"][0]


def test_a_turned_video_is_played_as_it_is(store, tmp_path):
    """Browsers turn it themselves."""
    job, _ = looked_at(store, rotated(tmp_path).path)
    assert not job.is_copy
    assert json.loads(ready(job))["notes"] == []


def test_closing_the_work_leaves_nothing_half_written(store, tmp_path):
    job = store.create(make_video(tmp_path / "clip.avi", 40, codec="mpeg4"))
    steps = analyze(job, GrayModel(), Limits(), RenderOptions(), InferenceOptions())
    next(steps)
    steps.close()
    assert [path.name for path in job.folder.iterdir()] == ["clip.avi"]
    with pytest.raises(InputError, match="give it again"):
        finish(make(job, "result", RenderOptions()))


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_playlists_are_refused_before_they_open_anything(store, tmp_path, kind):
    target = make_video(tmp_path / "secret.mp4", 4)
    job = store.create(playlist(tmp_path, kind, "video.mp4", str(target)))
    with pytest.raises(InputError, match="playlist"):
        list(analyze(job, GrayModel(), Limits(), RenderOptions(), InferenceOptions()))
    plain = store.create(playlist(tmp_path, kind, f"list.{'m3u8' if kind == 'hls' else 'txt'}", str(target)))
    with pytest.raises(InputError, match="playlist"):
        list(analyze(plain, GrayModel(), Limits(), RenderOptions(), InferenceOptions()))


def test_a_video_that_refers_to_another_file_shows_nothing_of_it(store, tmp_path):
    target = make_video(tmp_path / "secret.mp4", 4)
    job = store.create(external_reference(tmp_path, target))
    with pytest.raises(InputError):
        list(analyze(job, GrayModel(), Limits(), RenderOptions(), InferenceOptions()))


# ---- files for downloading


def test_files_are_made_from_the_track_and_kept(store, tmp_path):
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 24, audio=["aac"]))
    first = finish(make(job, "result", RenderOptions()))
    with av.open(str(first)) as made:
        video = made.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.width) == ("h264", "yuv420p", WIDTH)
        assert made.streams.audio
    data = first.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart
    assert finish(make(job, "result", RenderOptions(opacity=0.55))) is first
    faint = finish(make(job, "result", RenderOptions(opacity=0.1)))
    assert faint != first

    def distance(path):
        pairs = zip(read_frames(job.source), read_frames(path), strict=True)
        return np.mean([np.abs(a.to_rgb().astype(float) - b.to_rgb()).mean() for a, b in pairs])

    assert distance(faint) < distance(first) / 2
    with np.load(finish(make(job, "maps", RenderOptions()))) as archive:
        assert [read_barcode(as_picture(m)) for m in archive["maps"].astype(np.float32)] == list(range(24))
    with zipfile.ZipFile(finish(make(job, "moments", RenderOptions()))) as archive:
        assert any(name.endswith(".json") for name in archive.namelist())
    html = finish(make(job, "report", RenderOptions()))
    assert html.name == "clip.report.html"
    assert "clip.mp4" in html.read_text("utf-8")
    with pytest.raises(OptionError, match="result, reframed, heatmap"):
        finish(make(job, "everything", RenderOptions()))


def test_a_crop_that_follows_attention(store, tmp_path):
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 24, audio=["aac"]))  # 3:2
    assert list(job.crops) == ["9:16", "4:5", "1:1", "16:9"]
    reframed = finish(make(job, "reframed", RenderOptions(), "9:16"))
    assert reframed.name == "clip.9x16.mp4"
    frames = list(read_frames(reframed))
    assert len(frames) == 24
    told = json.loads(ready(job))["crops"]["9:16"]
    assert len(told["places"]) == 2 * 24
    # what the page shows is what is cut out
    source = list(read_frames(job.source))
    for k in (0, 23):
        left, top = round(told["places"][2 * k] * WIDTH), round(told["places"][2 * k + 1] * HEIGHT)
        width, height = (round(part * size) for part, size in zip(told["size"], (WIDTH, HEIGHT), strict=True))
        assert (frames[k].image.width, frames[k].image.height) == (width // 2 * 2, height)
        part = source[k].to_rgb()[top : top + height, left : left + frames[k].image.width]
        assert np.abs(part.astype(int) - frames[k].to_rgb()).mean() < 12
    assert finish(make(job, "reframed", RenderOptions(style="spotlight"), "9:16")) is reframed
    assert finish(make(job, "reframed", RenderOptions(), "1:1")) != reframed
    with pytest.raises(OptionError, match="cannot be cut to '3:1': 9:16, 4:5"):
        finish(make(job, "reframed", RenderOptions(), "3:1"))
    photo, _ = looked_at(store, still(tmp_path).path)
    assert finish(make(photo, "reframed", RenderOptions(), "1:1")).suffix == ".png"


def test_encoding_with_more_bits_where_people_look(store, tmp_path):
    """The model sees what is bright: a disc on noise, which is what costs bits."""
    noise = np.random.default_rng(1).integers(0, 60, (24, HEIGHT, WIDTH, 3), np.uint8)
    video = make_video(
        tmp_path / "clip.mp4", 24, audio=["aac"], transform=lambda rgb, k: np.maximum(rgb * (rgb > 200), noise[k])
    )
    actions = Actions(store, StubModels(), Limits())
    name = list(actions.analyze(str(video), *LOOK, ""))[-1][1]
    clips = actions.models.model.clips
    made = [json.loads(player) for player, _ in actions.download_encoded("h264", 8, "20", "", name)]
    assert made[-1]["download"]["name"] == "clip.encoded.mp4"
    with store.using(name) as job:
        strong, plain = (job.files[(RoiOptions(strength), EncoderOptions(crf=20))] for strength in (8, 0))
        result = finish(encode(job, RoiOptions(8), EncoderOptions(crf=20)))
    assert result.path == strong
    assert result.numbers["bytes"] == strong.stat().st_size < 0.9 * plain.stat().st_size
    assert result.numbers["plain_bytes"] == plain.stat().st_size
    assert result.numbers["bits_per_second"] == pytest.approx(8 * strong.stat().st_size / (24 / 25), rel=1e-3)
    assert result.numbers["source_bytes"] == video.stat().st_size
    assert made[-1]["made"] == sizes("clip.encoded.mp4", result.numbers)
    with av.open(str(strong)) as file:
        assert file.streams.audio
        assert sum(1 for _ in file.decode(video=0)) == 24
    by_rate, numbers = actions.encode(name, "hevc", 4, None, "200k")
    assert probe(by_rate).codec == "hevc"
    assert "plain_bytes" not in numbers
    assert actions.models.model.clips == clips
    refused = json.loads(list(actions.download_encoded("h264", 4, None, "100M", name))[-1][0])
    assert refused["problem"] == "A bit rate of 100M is more than is made here: up to 20M can be had."
    assert refused["state"] == "ready"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("h264", 4, None, "fast"), "Bitrate is 'fast'; it must be such as 800k"),
        (("h264", 4, "good", None), "Crf is 'good'; it must be a number"),
        (("h264", 4, "20", "800k"), "leave one out"),
        (("h264", 4, "0", None), "crf is 0; it must be 15 to 45"),
        (("av1", 4, None, None), "libsvtav1"),
        (("h264", 99, None, None), "Strength is 99; it must be 0 to 12"),
        (("h264", 4, None, None), "'still.png' is a still image, which has no bit rate"),
    ],
)
def test_what_cannot_be_encoded_by_regions_is_said_in_one_sentence(store, tmp_path, values, sentence):
    actions = Actions(store, StubModels(), Limits())
    photo = still(tmp_path).path.rename(tmp_path / "still.png")
    name = list(actions.analyze(str(photo), *LOOK, ""))[-1][1]
    with pytest.raises(gr.Error, match=f"(?i){sentence}") as caught:
        actions.encode(name, *values)
    assert "/" not in caught.value.message.replace("--", "")
    with store.using(name) as job:
        assert not job.files


def test_sizes_are_said_in_words():
    numbers = {"bytes": 610_000, "bits_per_second": 980_400, "plain_bytes": 700_000, "plain_bits_per_second": 1_120_000}
    text = "a.mp4: 0.61 MB, 980 kbit/s; 13 % less than encoded alike all over (0.70 MB, 1.1 Mbit/s)."
    assert sizes("a.mp4", numbers) == text
    assert sizes("a.mp4", {"bytes": 9_000, "bits_per_second": 9_000, "source_bytes": 2_000_000}) == (
        "a.mp4: 0.01 MB, 9 kbit/s. The file that came has 2.00 MB."
    )


def test_old_files_go(store, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_FILES_KEPT", 2)
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 4))
    results = [finish(make(job, "result", RenderOptions(opacity=k / 10))) for k in range(4)]
    assert [result.exists() for result in results] == [False, False, True, True]


def test_closing_the_making_leaves_no_file(store, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "REPORT_SECONDS", 0.01)
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 60))
    steps = make(job, "result", RenderOptions())
    assert next(steps).phase == "encoding"
    steps.close()
    assert not list(job.folder.glob("made-*/*"))
    assert not job.files


def test_what_looks_the_same_is_the_same():
    def look(style, colormap, opacity):
        return canonical(RenderOptions(style, colormap, opacity))

    assert look("heatmap", "jet", 0.2) == look("heatmap", "jet", 0.9)
    assert look("spotlight", "jet", 0.2) == look("spotlight", "hot", 0.2)
    assert look("overlay", "jet", 0.2) != look("overlay", "hot", 0.2)


def test_the_page_gets_the_map_of_every_frame_and_its_range(store, tmp_path):
    """The second half is darker: in each frame its white is full attention again."""
    video = make_video(tmp_path / "clip.mp4", 40, transform=lambda rgb, k: rgb if k < 20 else rgb // 2)
    job, _ = looked_at(store, video)
    data = job.browser_maps.read_bytes()
    heads = np.frombuffer(data[: 40 * 16], np.float32).reshape(40, 4)
    maps = np.frombuffer(data[40 * 16 :], np.uint8).reshape(40, *job.map_shape)
    assert job.map_shape == (48, 64)
    np.testing.assert_allclose(heads[:, 0], [k / 25 for k in range(40)], atol=1e-6)
    peaks = [stats.peak for stats in job.stats]
    assert (maps.reshape(40, -1).max(1) == 255).all()
    np.testing.assert_allclose(heads[:, 1], peaks, rtol=0.3)  # means of squares
    assert heads[39, 3] == pytest.approx(peaks[39], rel=0.2)  # the range has followed
    assert json.loads(ready(job))["ranges"]["video"][1] == pytest.approx(max(peaks), rel=1e-3)


def test_the_beginning_of_a_long_video(store, tmp_path):
    limits = Limits(seconds=1)
    job = store.create(make_video(tmp_path / "clip.mp4", 40))
    with pytest.raises(TooLongError) as caught:
        list(analyze(job, GrayModel(), limits, RenderOptions(), InferenceOptions()))
    assert caught.value.seconds == 1
    job.end = caught.value.seconds
    list(analyze(job, GrayModel(), limits, RenderOptions(), InferenceOptions()))
    assert len(job.stats) == 25
    assert "first 1 seconds" in json.loads(ready(job))["notes"][0]
    assert len(list(read_frames(finish(make(job, "result", RenderOptions()))))) == 25


@pytest.mark.parametrize("extension", ["png", "jpg", "tiff"])
def test_pictures(store, tmp_path, extension):
    made = still(tmp_path, extension)
    job, _ = looked_at(store, made.path)
    result = finish(make(job, "result", RenderOptions()))
    assert result.suffix == ".png"
    assert probe(result).width == made.size[0]
    (frame,) = read_frames(job.original)
    assert read_barcode(frame.to_rgb()) == 7
    value = json.loads(ready(job))
    assert value["still"]
    assert "photo" in value["facts"]


# ---- what the player is told


def test_moments_are_peaks_of_the_focus():
    seconds = np.arange(0, 20, 0.1)
    curve = smoothed_curve(seconds, 50 + 20 * np.cos(2 * np.pi * seconds / 2.5 - np.pi))
    moments = most_attended(curve)
    assert len(moments) == 5
    assert all(abs(moment.time_seconds % 2.5 - 1.25) < 0.15 for moment in moments)


def test_the_plot_has_means_and_not_more_points_than_a_screen_shows():
    curve = smoothed_curve(np.arange(1000) / 10, np.linspace(10, 90, 1000))
    line = plot_line(curve, points=100)
    assert len(line["time"]) == len(line["focus"]) == 100
    assert line["focus"][50] == pytest.approx(curve.values[500:510].mean(), abs=0.1)
    assert len(plot_line(smoothed_curve([0, 1, 2], [5, 5, 5]))["time"]) == 3


def test_progress_tells_frames_per_second_and_time_left():
    value = json.loads(working(Step("looking", 50, 150, 25.0, b"jpeg")))
    assert value["doing"] == "Looking: frame 50 of 150"
    assert value["rate"] == "25 frames/s · 4 s left"
    assert value["picture"].startswith("data:image/jpeg;base64,")
    assert json.loads(working(Step("looking", 50, None, 2.25)))["rate"] == "2.2 frames/s"
    assert json.loads(working(None))["state"] == "working"
    assert json.loads(working(Step("encoding", 5, 10)))["state"] == "encoding"
    first, second = (json.loads(working(Step("encoding", 5, 10, 5.0, part=(part, 2)))) for part in (1, 2))
    assert first["doing"] == second["doing"] == "Encoding the download: frame 5 of 10"
    assert [(value["done"], value["total"]) for value in (first, second)] == [(5, 20), (15, 20)]  # one bar
    assert [value["rate"][-8:] for value in (first, second)] == ["3 s left", "1 s left"]  # one countdown


def test_progress_never_counts_beyond_the_total():
    report = work.Reporter("encoding", 500)
    assert report.step(500).total == 500
    assert report.step(550).total is None  # the file's header was wrong


def test_places_in_the_queue(monkeypatch):
    monkeypatch.setattr("demo.waiting.WAIT_SECONDS", 0.01)
    line = WaitingLine(2)
    with line.ticket() as first:
        with line.ticket() as second, line.ticket() as third:
            assert [ticket.wait() for ticket in (first, second, third)] == [0, 1, 2]
            with pytest.raises(InputError, match="queue is full"), line.ticket():
                pass
        with line.ticket() as fourth:
            assert fourth.wait() == 1
    with line.ticket() as last:
        assert last.wait() == 0


LOOK = ("tinyhd-m", "overlay", "turbo", 0.5, "frame")


def test_the_page_looks_once_and_makes_files_often(store, tmp_path):
    models = StubModels()
    actions = Actions(store, models, Limits())
    outputs = list(actions.analyze(str(make_video(tmp_path / "clip.mp4", 24)), *LOOK, ""))
    states = [json.loads(player)["state"] for player, _ in outputs]
    assert states[0] == "working"
    assert states[-1] == "ready"
    name = outputs[-1][1]
    clips = models.model.clips
    assert clips > 0
    made = [json.loads(player) for player, _ in actions.download("result", "", *LOOK[1:], name)]
    assert made[0]["state"] == "encoding"
    assert made[-1]["download"]["name"] == "clip.saliency.mp4"
    assert made[-1]["job"] == json.loads(outputs[-1][0])["job"]
    assert models.model.clips == clips
    assert list(actions.analyze_again(False, *LOOK, name)) == [(gr.skip(), gr.skip())]  # the same model
    assert models.model.clips == clips
    other = list(actions.analyze_again(False, "another", *LOOK[1:], name))
    assert json.loads(other[-1][0])["state"] == "ready"
    assert models.model.clips == 2 * clips
    assert len(store) == 1
    assert not (store.root / name).exists()
    assert next(actions.download("result", "", *LOOK[1:], ""))[0] == gr.skip()


def test_errors_are_one_sentence_and_can_be_tried_again(store, tmp_path):
    models = StubModels()
    actions = Actions(store, models, Limits())
    broken = tmp_path / "notes.mp4"
    broken.write_text("not a video")
    player, name = list(actions.analyze(str(broken), *LOOK, ""))[-1]
    value = json.loads(player)
    assert value["state"] == "failed"
    assert "notes.mp4" in value["message"]
    assert "/" not in value["message"]
    assert json.loads(list(actions.analyze_again(False, *LOOK, name))[-1][0]) == value
    assert len(store) == 1
    with pytest.raises(gr.Error, match="There is no file"):
        actions.annotate(None, *LOOK)


def test_what_was_stopped_can_be_tried_again(store, tmp_path):
    actions = Actions(store, StubModels(), Limits())
    work = actions.analyze(str(make_video(tmp_path / "clip.mp4", 24)), *LOOK, "")
    next(work)
    name = next(work)[1]
    work.close()
    assert json.loads(actions.stop(name)[0]) == {"state": "failed", "message": "Stopped.", "trim": 0.0}
    assert json.loads(list(actions.analyze_again(False, *LOOK, name))[-1][0])["state"] == "ready"


def test_too_long_videos_can_be_cut_to_the_limit(store, tmp_path):
    actions = Actions(store, StubModels(), Limits(seconds=1))
    player, name = list(actions.analyze(str(make_video(tmp_path / "clip.mp4", 40)), *LOOK, ""))[-1]
    assert json.loads(player)["trim"] == 1
    value = json.loads(list(actions.analyze_again(True, *LOOK, name))[-1][0])
    assert (value["state"], value["count"], value["seconds"]) == ("ready", 25, 1)


def test_visitors_see_their_place_in_the_queue(store, tmp_path):
    actions = Actions(store, StubModels(), Limits())
    with actions.line.ticket():
        visit = actions.analyze(str(make_video(tmp_path / "clip.mp4", 4)), *LOOK, "")
        next(visit)
        value = json.loads(next(visit)[0])
        assert value == {"state": "waiting", "doing": "Number 1 in the queue: 1 visitor is served before you"}
    assert json.loads(list(visit)[-1][0])["state"] == "ready"


def test_bugs_are_logged_and_not_told(store, tmp_path, caplog):
    models = StubModels()
    models.get = lambda name: 1 / 0
    actions = Actions(store, models, Limits())
    with pytest.raises(gr.Error, match="its log says what") as caught:
        actions.annotate(str(make_video(tmp_path / "x.mp4", 4)), *LOOK)
    assert "division" not in caught.value.message
    assert "division by zero" in caplog.text
    assert list(store.root.iterdir()) == []


# ---- safety


def test_foreign_addresses_are_taken_out_of_pages():
    page = b"""<head><meta charset="utf-8"><meta property="og:url" content="https://gradio.app/" />
<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin /><link rel="stylesheet" href="./own.css">
<script src="https://cdnjs.cloudflare.com/ajax/iframe-resizer.js" async></script>
<script src="/own.js"></script></head>"""
    cleaned = without_foreign_addresses(page)
    assert b"https://" not in cleaned
    assert b'href="./own.css"' in cleaned
    assert b'src="/own.js"' in cleaned
    assert b'charset="utf-8"' in cleaned


def test_only_uploads_have_addresses_that_are_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    upload, secret = tmp_path / "uploads" / "x" / "a b.mp4", tmp_path / "secret.mp4"
    for path in (upload, secret):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    address = "http://127.0.0.1:7860/gradio_api/file="
    assert _upload_of(f"{address}{upload}") == str(upload)
    assert _upload_of(f"{address}{quote(str(upload))}") == str(upload)
    for other in (
        f"{address}{secret}",
        f"{address}{upload.parent}/../../secret.mp4",
        f"{address}/etc/passwd",
        f"file://{upload}",
        "http://127.0.0.1/x.mp4",
    ):
        assert _upload_of(other) is None, other


def test_login_needs_both_variables():
    assert login_from({}) is None
    assert login_from({"TINYHD_DEMO_USER": "u", "TINYHD_DEMO_PASSWORD": "p"}) == ("u", "p")
    with pytest.raises(ValueError, match="set both"):
        login_from({"TINYHD_DEMO_USER": "u"})


def test_the_example_is_played_as_it_is():
    assert browser_plays(probe(EXAMPLE), same_times=True)


def test_a_space_gets_what_the_package_needs():
    root = EXAMPLE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["report"], *(need for need in extras["demo"] if "tinyhd" not in need)]
    lines = (root / "demo" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted
    _, front, _ = (root / "demo" / "README.md").read_text("utf-8").split("---\n", 2)
    facts = dict(line.split(": ", 1) for line in front.splitlines())
    assert (root / facts["app_file"]).is_file()
    assert {"title", "emoji", "sdk", "sdk_version", "license", "short_description"} < set(facts)
    assert len(facts["short_description"]) <= 60  # more is refused
    assert f"gradio=={facts['sdk_version']}" in (root / "constraints.txt").read_text()
