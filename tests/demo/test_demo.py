"""The demo without a browser: limits, kept files, looking, drawing, what the player is told, and the safety net."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import REQUIRE_ALL

if not REQUIRE_ALL:
    pytest.importorskip("gradio", reason="the demo's extra is not installed")

import av
from fakes import SCALE, GrayModel, as_picture
from makers import WIDTH, external_reference, make_video, playlist, read_barcode, rotated, still

from demo import work
from demo.__main__ import login_from
from demo.app import Actions, ready, working
from demo.jobs import Job, JobStore
from demo.kept import read_maps
from demo.limits import Limits, public_sentence
from demo.moments import most_attended, plot_lines
from demo.offline import without_foreign_addresses
from demo.quick import gradio as gr
from demo.work import Look, Models, Step, analyse, finish, render
from tinyhd.errors import InputError
from tinyhd.saliency.stats import FrameStats
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

    def __init__(self):
        self.model = GrayModel()

    def get(self, name):
        return self.model

    def warm_up(self):
        return ["tinyhd-m"]


def looked_at(store, path, limits=None):
    """A job whose maps are kept, and its steps."""
    job = store.create(path)
    steps = list(analyse(job, GrayModel(), limits or Limits(), Look()))
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
    monkeypatch.setattr(Limits, "check_video", lambda self, info: None)
    video = make_video(tmp_path / "x.mkv", 24)
    limits = Limits(seconds=10, frame_rate=1)
    assert limits.frames == 10
    job = store.create(video)
    with pytest.raises(InputError, match="more than 10 frames"):
        list(analyse(job, GrayModel(), limits, Look()))
    assert not job.ready()


@pytest.mark.parametrize(
    ("message", "public"),
    [
        ("'/tmp/a b/clip.mp4' is empty.", "'clip.mp4' is empty."),
        ('"/tmp/it\'s/clip.mp4" is empty.', "'clip.mp4' is empty."),
        ("'C:\\\\Users\\\\me\\\\clip.mp4' is empty.", "'clip.mp4' is empty."),
        ("cannot open /home/me/secret/clip.mp4 now", "Cannot open clip.mp4 now"),
        ("'<img src=x onerror=1>.mp4' is empty.", "'&lt;img src=x onerror=1&gt;.mp4' is empty."),
        ("48/96 frames", "48/96 frames"),
    ],
)
def test_public_sentences_have_no_folders_and_no_tags(message, public):
    assert public_sentence(InputError(message)) == public


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
    job = store.create(EXAMPLE.parents[2] / "demo" / "page" / "bunny.jpg")
    list(analyse(job, models.get("tinyhd-m"), Limits(), Look()))
    assert job.display_scale == models.get("tinyhd-m").config.display_scale
    assert job.stats[0].peak > 0


def test_looking_keeps_maps_numbers_and_cuts_of_every_frame(store, tmp_path):
    video = make_video(tmp_path / "clip.mp4", 40, transform=lambda rgb, k: rgb if k < 20 else 255 - rgb)
    job, steps = looked_at(store, video)
    assert steps[0].done == 0
    assert steps[0].picture.startswith(b"\xff\xd8")
    assert (steps[-1].done, steps[-1].total) == (40, 40)
    assert steps[-1].frames_per_second > 0
    maps = list(read_maps(job.maps))
    assert len(maps) == len(job.stats) == 40
    assert [read_barcode(as_picture(m)) for m in maps[:20]] == list(range(20))
    assert job.cuts == {20}
    low, high = job.value_range
    assert low == pytest.approx(min(m.min() for m in maps), abs=1e-3)
    assert high == pytest.approx(max(m.max() for m in maps), abs=1e-3)
    assert job.table.read_text().count("\n") == 41
    assert job.original == job.source
    assert not job.is_copy


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", ".mp4"), ("mpeg4", ".avi"), ("libx264", ".mkv")])
def test_what_browsers_do_not_play_gets_a_copy(store, tmp_path, codec, suffix):
    video = make_video(tmp_path / f"clip{suffix}", 10, codec=codec)
    job, _ = looked_at(store, video)
    assert job.is_copy
    with open_video(job.original) as copy:
        assert (copy.info.codec, copy.info.source_pix_fmt) == ("h264", "yuv420p")
        assert [read_barcode(frame.to_rgb()) for frame in copy] == list(range(10))
    assert "do not play this kind of file" in json.loads(ready(job, finish(render(job, Look()))))["notes"][0]


def test_a_turned_video_gets_an_upright_copy_with_its_times(store, tmp_path):
    job, _ = looked_at(store, rotated(tmp_path).path)
    assert job.is_copy
    frames = list(read_frames(job.original))
    assert [read_barcode(frame.to_rgb()) for frame in frames] == list(range(24))
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(24)]


def test_closing_the_work_leaves_nothing_half_written(store, tmp_path):
    job = store.create(make_video(tmp_path / "clip.avi", 40, codec="mpeg4"))
    steps = analyse(job, GrayModel(), Limits(), Look())
    next(steps)
    steps.close()
    assert [path.name for path in job.folder.iterdir()] == ["clip.avi"]
    with pytest.raises(InputError, match="give it again"):
        finish(render(job, Look()))


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_playlists_are_refused_before_they_open_anything(store, tmp_path, kind):
    target = make_video(tmp_path / "secret.mp4", 4)
    job = store.create(playlist(tmp_path, kind, "video.mp4", str(target)))
    with pytest.raises(InputError, match="playlist"):
        list(analyse(job, GrayModel(), Limits(), Look()))
    plain = store.create(playlist(tmp_path, kind, f"list.{'m3u8' if kind == 'hls' else 'txt'}", str(target)))
    with pytest.raises(InputError, match="playlist"):
        list(analyse(plain, GrayModel(), Limits(), Look()))


def test_a_video_that_refers_to_another_file_shows_nothing_of_it(store, tmp_path):
    target = make_video(tmp_path / "secret.mp4", 4)
    job = store.create(external_reference(tmp_path, target))
    with pytest.raises(InputError):
        list(analyse(job, GrayModel(), Limits(), Look()))


# ---- drawing


def test_drawing_needs_no_model_and_looks_are_kept(store, tmp_path):
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 24, audio=["aac"]))
    first = finish(render(job, Look()))
    with av.open(str(first.path)) as made:
        video = made.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.width) == ("h264", "yuv420p", WIDTH)
        assert made.streams.audio
    data = first.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart
    assert set(first.thumbnails) == {moment.frame for moment in most_attended(job.stats)}
    again = finish(render(job, Look()))
    assert again is first
    faint = finish(render(job, Look(opacity=0.1)))
    assert faint.path != first.path

    def distance(result):
        pairs = zip(read_frames(job.source), read_frames(result.path), strict=True)
        return np.mean([np.abs(a.to_rgb().astype(float) - b.to_rgb()).mean() for a, b in pairs])

    assert distance(faint) < distance(first) / 2


def test_old_looks_go(store, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_LOOKS_KEPT", 2)
    job, _ = looked_at(store, make_video(tmp_path / "clip.mp4", 4))
    results = [finish(render(job, Look(opacity=k / 10))) for k in range(4)]
    assert [result.path.exists() for result in results] == [False, False, True, True]


def test_normalisation_by_video_is_not_that_by_frame(store, tmp_path):
    """The second half is darker: by frame its white is full attention again, by video it is not."""
    video = make_video(tmp_path / "clip.mp4", 40, transform=lambda rgb, k: rgb if k < 20 else rgb // 2)
    job, _ = looked_at(store, video)
    with open_video(job.source) as reader:
        by_frame = [m.max() for _, m in work._shown_maps(job, Look(normalize="frame"), reader)]
    with open_video(job.source) as reader:
        by_video = [m.max() for _, m in work._shown_maps(job, Look(normalize="video"), reader)]
    job.display_scale = 2 * SCALE
    with open_video(job.source) as reader:
        fixed = [m.max() for _, m in work._shown_maps(job, Look(normalize="none"), reader)]
    assert by_frame[39] > 0.75
    assert by_video[39] < 0.6 < 0.95 < by_video[5]
    assert fixed[5] == pytest.approx(by_video[5] / 2, abs=0.1)


def test_what_looks_the_same_is_the_same():
    assert Look.of("heatmap", "jet", 0.2, "frame") == Look.of("heatmap", "jet", 0.9, "frame")
    assert Look.of("spotlight", "jet", 0.2, "frame") == Look.of("spotlight", "hot", 0.2, "frame")
    assert Look.of("overlay", "jet", 0.2, "frame") != Look.of("overlay", "hot", 0.2, "frame")


@pytest.mark.parametrize("extension", ["png", "jpg", "tiff"])
def test_pictures(store, tmp_path, extension):
    made = still(tmp_path, extension)
    job, _ = looked_at(store, made.path)
    result = finish(render(job, Look()))
    assert result.path.suffix == ".png"
    assert probe(result.path).width == made.size[0]
    (frame,) = read_frames(job.original)
    assert read_barcode(frame.to_rgb()) == 7
    value = json.loads(ready(job, result))
    assert value["still"]
    assert "picture" in value["facts"]


# ---- what the player is told


def stats_of(entropies, seconds_each=0.1):
    return [FrameStats(k, k * seconds_each, 1, 0.5, 0.5, 0.5, 0.5, 0.2, e, 50.0) for k, e in enumerate(entropies)]


def test_moments_are_the_lowest_entropies_that_lie_apart():
    entropies = [10.0] * 100
    entropies[20], entropies[21], entropies[80] = 3.0, 2.0, 1.0
    moments = most_attended(stats_of(entropies))
    assert len(moments) == 5
    frames = [moment.frame for moment in moments]
    assert frames == sorted(frames)
    assert {21, 80} <= set(frames)
    assert 20 not in frames
    assert min(np.diff(frames)) >= 10
    assert most_attended([]) == []
    assert [moment.frame for moment in most_attended(stats_of([5.0]))] == [0]


def test_plot_lines_are_means_and_not_more_than_a_screen_shows():
    lines = plot_lines(stats_of(range(1000)), points=100)
    assert len(lines["time"]) == len(lines["entropy"]) == len(lines["spread"]) == 100
    assert lines["entropy"][0] == pytest.approx(4.5)
    assert lines["spread"][0] == pytest.approx(20)
    assert len(plot_lines(stats_of([1, 2, 3]))["time"]) == 3


def test_progress_tells_frames_per_second_and_time_left():
    value = json.loads(working(Step("looking", 50, 150, 25.0, b"jpeg")))
    assert value["doing"] == "Looking: frame 50 of 150"
    assert value["rate"] == "25 frames/s · 4 s left"
    assert value["picture"].startswith("data:image/jpeg;base64,")
    assert json.loads(working(Step("looking", 50, None, 2.25)))["rate"] == "2.2 frames/s"
    assert json.loads(working(None))["state"] == "working"


def test_the_page_looks_once_and_draws_often(store, tmp_path):
    models = StubModels()
    actions = Actions(store, models, Limits())
    video = make_video(tmp_path / "clip.mp4", 24)
    outputs = list(actions.see(str(video), "tinyhd-m", "overlay", "turbo", 0.5, "frame", ""))
    states = [json.loads(player)["state"] for player, *_ in outputs]
    assert states[0] == "working"
    assert states[-1] == "ready"
    name = outputs[-1][1]
    clips = models.model.clips
    assert clips > 0
    drawn = list(actions.redraw(name, "overlay", "turbo", 0.9, "video"))
    before, after = (json.loads(o[-1][0]) for o in (outputs, drawn[:-1]))
    assert before["shown"] != after["shown"]
    assert before["original"] == after["original"]
    assert models.model.clips == clips
    other = list(actions.see_again("tinyhd-m", "overlay", "turbo", 0.5, "frame", name))
    assert json.loads(other[-1][0])["state"] == "ready"
    assert models.model.clips == 2 * clips
    assert len(store) == 1
    assert not (store.root / name).exists()
    assert next(actions.redraw("", "overlay", "turbo", 0.9, "video"))[0] == gr.skip()


def test_errors_are_one_sentence_and_nothing_stays(store, tmp_path):
    actions = Actions(store, StubModels(), Limits())
    broken = tmp_path / "notes.mp4"
    broken.write_text("not a video")
    outputs = []
    with pytest.raises(gr.Error) as caught:
        outputs.extend(actions.see(str(broken), "tinyhd-m", "overlay", "turbo", 0.5, "frame", ""))
    assert "notes.mp4" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert "/" not in caught.value.message
    assert json.loads(outputs[-1][0]) == {"state": "idle"}
    assert list(store.root.iterdir()) == []
    with pytest.raises(gr.Error, match="There is no file"):
        actions.annotate(None, "tinyhd-m", "overlay", "turbo", 0.5, "frame")


def test_bugs_are_logged_and_not_told(store, tmp_path, caplog):
    models = StubModels()
    models.get = lambda name: 1 / 0
    actions = Actions(store, models, Limits())
    with pytest.raises(gr.Error, match="its log says what") as caught:
        actions.annotate(str(make_video(tmp_path / "x.mp4", 4)), "tinyhd-m", "overlay", "turbo", 0.5, "frame")
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


def test_login_needs_both_variables():
    assert login_from({}) is None
    assert login_from({"TINYHD_DEMO_USER": "u", "TINYHD_DEMO_PASSWORD": "p"}) == ("u", "p")
    with pytest.raises(ValueError, match="set both"):
        login_from({"TINYHD_DEMO_USER": "u"})


def test_the_example_is_played_as_it_is(store):
    job = Job("x", store.root, EXAMPLE, "bunny")
    assert browser_plays(probe(job.source), same_times=True)
    renamed = store.root / "bunny.mov"
    shutil.copy(EXAMPLE, renamed)
    assert not browser_plays(probe(renamed))
