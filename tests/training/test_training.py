"""The training method: losses by hand, packs, mix, teachers, and a run whose loss falls and that resumes exactly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from makers import make_video

from tinyhd.errors import InputError, OptionError, WeightsError
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD, TinyHDOutput, plain_convolutions
from tinyhd.network.weights import load_model, save_model
from training import distill_data
from training.backbone import inflate_imagenet, start_decoders
from training.config import TrainConfig, config_from_dict, read_config
from training.data import Augmentation, ClipDataset, Entry, MixSampler, PackSpec, list_entries
from training.fixed_norms import fix_norms
from training.losses import LossWeights, correlation, distillation_loss, kl_divergence, scanpath_saliency
from training.packs import (
    Clip,
    Maps,
    Photo,
    clip_names,
    clip_of_photo,
    clips_of_frames,
    density,
    photo_names,
    read_clip,
    read_maps,
    read_photo,
    write_clip,
    write_maps,
    write_photo,
)
from training.release import lower, release, usual_maximum
from training.teachers import (
    Ensemble,
    MultiOutputTeacher,
    SlidingTeacher,
    TeacherMaps,
    imagenet_clip,
    interpolate_in_time,
    load_teacher,
    normalize_sum,
    sliding_ends,
)
from training.train import Process, Trainer, paper_milestones, rate_at

ROOT = Path(__file__).resolve().parents[2]


def blob(y: float, x: float, height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-((rows - y * height) ** 2 + (columns - x * width) ** 2) / 40).astype(np.float32)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Clips with a bright square, which is where the stored teacher looks; two of four sources are labelled."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pack"
    for source in range(4):
        for k in range(2):
            y, x = rng.uniform(0.2, 0.8, 2)
            frames = rng.integers(0, 80, (31, 192, 256, 3)).astype(np.uint8)
            frames[:, int(y * 192) - 16 : int(y * 192) + 16, int(x * 256) - 16 : int(x * 256) + 16] = 250
            points = np.array([[t, x, y] for t in range(16)], np.float32) if source < 2 else None
            name = f"source{source}.{k}"
            write_clip(folder, Clip(name, frames, points))
            saliency = blob(y, x) + 1e-4
            write_maps(folder, "square", name, Maps(np.stack([saliency] * 16), np.stack([saliency] * 4)))
    return folder


def run_config(out: Path, pack: Path, **options: object) -> TrainConfig:
    values: dict[str, object] = {
        "out": str(out),
        "packs": [{"folder": str(pack), "teacher": "square"}],
        "model": {"channel_reduction": 4, "output_stride": 4},
        "size": [64, 64],
        "batch": 2,
        "steps": 6,
        "warmup": 2,
        "rate": 3e-3,
        "workers": 0,
        "device": "cpu",
        "log_every": 2,
        "save_every": 3,
        "validate_every": 100,
    }
    return config_from_dict(values | options)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_kl_by_hand():
    target = torch.tensor([[[[1.0, 1.0], [2.0, 0.0]]]])  # 1/4, 1/4, 1/2, 0
    prediction = torch.tensor([[[[2.0, 1.0], [1.0, 4.0]]]])  # 1/4, 1/8, 1/8, 1/2
    expected = 0.25 * np.log(2) + 0.5 * np.log(4)
    assert kl_divergence(target, prediction).item() == pytest.approx(expected, rel=1e-6)
    assert kl_divergence(target, 7 * target).item() == pytest.approx(0, abs=1e-6)


def test_correlation_and_nss_by_hand():
    a = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert correlation(a, 5 + 2 * a).item() == pytest.approx(1)
    assert correlation(a, -a).item() == pytest.approx(-1)
    counts = torch.tensor([[[[0.0, 0.0], [0.0, 2.0]]]])
    assert scanpath_saliency(counts, a).item() == pytest.approx(1.5 / np.sqrt(1.25), rel=1e-6)


def test_every_term_counts_what_it_says():
    torch.manual_seed(0)
    maps = lambda k: torch.rand(2, k, 8, 8) + 0.1  # noqa: E731
    output = TinyHDOutput(maps(16), {"d1": maps(4), "d2": maps(16), "d3": maps(16)})
    teacher = TeacherMaps(maps(16), maps(4), maps(16), maps(16))
    counts = torch.zeros(2, 16, 8, 8)
    counts[0, :8, 2, 3] = 1  # only half of the first clip's frames are labelled
    weights = LossWeights(ground_truth=2, teacher=3, hierarchical=5, decoders=7, cc=11, nss=13)
    total, terms = distillation_loss(output, teacher, counts, counts, weights)
    fused = output.fused
    probability = normalize_sum(fused)
    assert terms["ground_truth"].item() == pytest.approx(-probability[0, :8, 2, 3].log().mean().item(), rel=1e-5)
    assert terms["teacher"].item() == pytest.approx(kl_divergence(teacher.fused, fused).mean().item(), rel=1e-5)
    four = sum(kl_divergence(teacher.d1[:, i], output.decoders["d1"][:, i]).mean() for i in range(4))
    assert terms["hierarchical"].item() == pytest.approx(float(four), rel=1e-5)
    both = sum(kl_divergence(getattr(teacher, d), output.decoders[d]).mean() for d in ("d2", "d3"))
    assert terms["decoders"].item() == pytest.approx(float(both), rel=1e-5)
    expected = sum(getattr(weights, name) * float(value) for name, value in terms.items())
    assert len(terms) == 6
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_the_teacher_counts_less_where_people_were_asked():
    maps = torch.rand(1, 16, 8, 8) + 0.1
    output = TinyHDOutput(torch.rand(1, 16, 8, 8) + 0.1, {})
    density = torch.zeros(1, 16, 8, 8)
    density[:, :4, 2, 3] = 1
    teacher = TeacherMaps(maps, maps[:, :4])
    _, terms = distillation_loss(output, teacher, density, density, LossWeights(teacher_labelled=0.5))
    each = kl_divergence(normalize_sum(maps), output.fused)[0]
    assert terms["teacher"].item() == pytest.approx(float((each[:4].sum() / 2 + each[4:].sum()) / 16), rel=1e-5)


def test_a_batch_without_labels_has_teacher_losses_only():
    maps = torch.rand(1, 16, 8, 8) + 0.1
    output = TinyHDOutput(maps, {"d1": maps[:, :4]})
    none = torch.zeros(1, 16, 8, 8)
    total, terms = distillation_loss(output, TeacherMaps(maps, maps[:, :4]), none, none, LossWeights())
    assert terms["ground_truth"].item() == 0
    assert total.item() == pytest.approx(0, abs=1e-5)


# --- packs and data ---------------------------------------------------------------------------------------------------


def test_clips_and_maps_come_back(tmp_path):
    frames = np.full((20, 192, 256, 3), 100, np.uint8)
    points = np.array([[3, 0.25, 0.5]], np.float32)
    write_clip(tmp_path, Clip("a.b.7", frames, points))
    clip = read_clip(tmp_path, "a.b.7")
    assert (clip.source, clip.lead, clip.frames.shape) == ("a.b", 4, frames.shape)
    assert np.abs(clip.frames.astype(int) - 100).max() <= 1
    assert len(read_clip(tmp_path, "a.b.7", with_lead=False).frames) == 16
    np.testing.assert_array_equal(clip.points, points)
    saliency = np.stack([blob(0.3, 0.6)] * 16) * 1e-7
    write_maps(tmp_path, "t", "a.b.7", Maps(saliency))
    stored = read_maps(tmp_path, "t", "a.b.7")
    np.testing.assert_allclose(
        stored.fused / stored.fused.sum((1, 2), keepdims=True), saliency / saliency[0].sum(), atol=1e-5
    )
    assert stored.d1 is None


def test_pack_of_videos_photos_and_fixations_then_teach(tmp_path, capsys):
    videos, photos = tmp_path / "videos", tmp_path / "photos"
    videos.mkdir()
    make_video(videos / "v.mp4", 120)
    photos.mkdir()
    rng = np.random.default_rng(0)
    from PIL import Image

    for name in ("p.jpg", "q.png"):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(photos / name)
    (photos / "broken.jpg").write_bytes(b"no picture")
    pack = tmp_path / "pack"
    command = ["pack", "--out", str(pack), "--videos", str(videos), "--photos", str(photos), "--stride", "16"]
    assert distill_data.main(command) == 0
    names = clip_names(pack)
    assert sum(n.startswith("v.") for n in names) in (2, 3)
    assert {read_clip(pack, n).step for n in names} == {2}  # 15 of 25 frames a second, or nearly
    assert photo_names(pack) == ["photos-p", "photos-q"]
    assert "broken.jpg" in capsys.readouterr().err
    late = [n for n in names if n.startswith("v.")][-1]
    assert read_clip(pack, late).lead == 15

    weights = tmp_path / "s.safetensors"
    save_model(TinyHD(TinyHDConfig(multi_output=False, channel_reduction=4)), weights)
    teach = ["teach", "--pack", str(pack), "--teacher", str(weights), "--every", "15", "--device", "cpu"]
    assert distill_data.main(teach) == 0
    assert all(read_maps(pack, "teacher", n).fused.shape == (16, 48, 64) for n in names)
    assert read_maps(pack, "teacher", "photos-q").fused.shape == (1, 48, 64)
    stamp = (pack / "maps/teacher" / f"{names[0]}.npz").stat().st_mtime_ns
    assert distill_data.main(teach) == 0  # nothing is done twice
    assert (pack / "maps/teacher" / f"{names[0]}.npz").stat().st_mtime_ns == stamp
    assert distill_data.main(["pack", "--out", str(pack), "--videos", str(tmp_path / "none")]) == 1
    assert "no folder" in capsys.readouterr().err


def spot_photo() -> Photo:
    image = np.zeros((120, 160, 3), np.uint8)
    image[60:66, 80:86] = 255  # center at 83/160, 63/120
    return Photo("p", image, np.array([[83 / 160, 63 / 120]], np.float32))


def test_fixations_move_with_the_photo():
    photo, moves = spot_photo(), 0.0
    for seed in range(6):
        clip = clip_of_photo(photo, np.random.default_rng(seed), still=0)
        for k, x, y in clip.points:
            frame = clip.frames[int(k)].sum(-1).astype(float)
            rows, columns = np.nonzero(frame > frame.max() / 2)
            assert abs(columns.mean() + 0.5 - x * 256) < 2
            assert abs(rows.mean() + 0.5 - y * 192) < 2
        moves = max(moves, np.ptp(clip.points[:, 1]))
    assert moves > 0.02


def test_a_still_is_sixteen_equal_frames_of_the_whole_photo_or_a_part():
    whole = clip_of_photo(spot_photo(), np.random.default_rng(0), still=1, whole=1)
    part = clip_of_photo(spot_photo(), np.random.default_rng(0), still=1, whole=0)
    for clip in (whole, part):
        assert (clip.frames == clip.frames[0]).all()
        assert np.ptp(clip.points[:, 1]) == 0
    assert whole.boxes[0].tolist() == [0, 0, 1, 1]
    assert part.boxes[0].tolist() != [0, 0, 1, 1]


def test_photos_come_back_and_their_maps_move_along(tmp_path):
    photo = spot_photo()
    write_photo(tmp_path, photo)
    back = read_photo(tmp_path, "p")
    assert np.abs(back.image.astype(int) - photo.image).max() < 60  # a JPEG of hard edges
    np.testing.assert_array_equal(back.points, photo.points)
    large = Photo("large", np.zeros((900, 1600, 3), np.uint8))
    write_photo(tmp_path, large)
    assert read_photo(tmp_path, "large").image.shape == (360, 640, 3)
    write_maps(tmp_path, "a", "p", Maps(blob(63 / 120, 83 / 160)[None] + 1e-4))
    data = ClipDataset(list_entries([PackSpec(str(tmp_path), "a", labelled=True)]), (192, 256), Augmentation(0.5))
    assert len(data) == 1  # the other has no maps
    seen = 0
    for seed in range(8):
        item = data[(0, seed)]
        for k in (0, 15):
            if not item["counts"][k].any():
                continue  # moved out of the frame
            spot = divmod(int(item["counts"][k].argmax()), 64)
            peak = divmod(int(item["fused"][k].argmax()), 64)
            assert max(abs(spot[0] - peak[0]), abs(spot[1] - peak[1])) <= 2
            seen += 1
    assert seen >= 8


def test_several_stored_teachers_are_averaged(pack):
    for name in clip_names(pack):
        write_maps(pack, "left", name, Maps(np.stack([blob(0.5, 0.1)] * 16) * 3))
    both = ClipDataset(list_entries([PackSpec(str(pack), "square+left")]), (192, 256), Augmentation(0))[(0, 0)]
    one = ClipDataset(list_entries([PackSpec(str(pack), "square")]), (192, 256), Augmentation(0))[(0, 0)]
    expected = (normalize_sum(one["fused"]) + normalize_sum(torch.from_numpy(blob(0.5, 0.1)))) / 2
    torch.testing.assert_close(normalize_sum(both["fused"]), expected, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(both["d1"], one["d1"], rtol=1e-2, atol=1e-3)


def test_clips_keep_to_one_shot_and_count_the_videos_frames():
    frames = [np.full((192, 256, 3), k, np.uint8) for k in range(60)]
    clips = list(clips_of_frames("v", ((frame, k == 20) for k, frame in enumerate(frames)), stride=8, step=2))
    assert [clip.name for clip in clips] == ["v.00000", "v.00048", "v.00064", "v.00080"]
    assert all(clip.step == 2 for clip in clips)
    assert [int(clip.frames[-16, 0, 0, 0]) for clip in clips] == [0, 24, 32, 40]
    assert [clip.lead for clip in clips] == [0, 4, 12, 15]


def test_density_keeps_frames_apart():
    maps = density([[2, 0.5, 0.5], [2, 0.1, 0.1]], 48, 64, 1.5)
    assert maps.shape == (16, 48, 64)
    assert maps[2].sum() == pytest.approx(2, rel=0.05)
    assert maps[[0, 1, 3]].sum() == 0
    assert maps[2, 24, 32] == maps[2].max()


def test_augmentation_keeps_frames_maps_and_fixations_together(pack):
    data = ClipDataset(list_entries([PackSpec(str(pack), "square")]), (192, 256), Augmentation(0.5, 0.6, 0.1))
    flips = 0
    for seed in range(12):
        item = data[(seed % 4, seed)]  # entries 0..3 are labelled
        bright = item["frames"][0].float().mean(0)
        rows, columns = torch.nonzero(bright > 0.8 * bright.max(), as_tuple=True)
        peak = divmod(int(item["fused"][0].argmax()), 64)
        if item["counts"].sum() == 0 or len(rows) < 900:
            continue  # cropped away
        assert abs(float(columns.float().mean()) / 4 - peak[1]) < 2
        assert abs(float(rows.float().mean()) / 4 - peak[0]) < 2
        spot = divmod(int(item["counts"][0].argmax()), 64)
        assert abs(spot[0] - peak[0]) <= 2
        assert abs(spot[1] - peak[1]) <= 2
        flips += 1
    assert flips >= 5
    np.testing.assert_array_equal(data[(1, 5)]["frames"], data[(1, 5)]["frames"])


def test_mix_has_each_labelled_source_once_and_shares_without_overlap():
    entries = [Entry(Path("a"), f"s{s}.{k}", "t", True) for s in range(5) for k in range(3)]
    entries += [Entry(Path("b"), f"u{k}.0", "t", False) for k in range(4)]
    sampler = MixSampler(entries, 2.0, seed=1)
    epoch = sampler.epoch(0)
    assert len(epoch) == len(sampler) == 15
    assert sorted(entries[i].source for i in epoch if entries[i].labelled) == [f"a/s{s}" for s in range(5)]
    assert sum(not entries[i].labelled for i in epoch) == 10
    assert sampler.epoch(1) != epoch

    def first(sampler: MixSampler, count: int) -> list[tuple[int, int]]:
        return [pair for pair, _ in zip(sampler, range(count), strict=False)]

    whole = first(sampler, 40)
    assert first(MixSampler(entries, 2.0, 1, start=22), 18) == whole[22:]
    halves = [first(MixSampler(entries, 2.0, 1, rank, 2), 20) for rank in (0, 1)]
    assert halves[0] == whole[0::2]
    assert halves[1] == whole[1::2]


# --- teachers ---------------------------------------------------------------------------------------------------------


def test_sliding_teacher_supervises_each_frame_by_the_window_that_ends_there():
    frames = torch.arange(31, dtype=torch.uint8).view(1, 31, 1, 1, 1).expand(1, 31, 3, 32, 32)
    seen = []

    def network(clip: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((round(clip[0, 0, 0, 0, 0].item()), round(clip[0, 0, -1, 0, 0].item())))
        return {"fused": torch.full((1, 1, 4, 4), clip[0, 0, -1, 0, 0].item()), "d1": torch.ones(1, 4, 4, 4)}

    teacher = SlidingTeacher(network, lambda x: x.float().transpose(1, 2))
    maps = teacher(frames, 15, 16)
    assert seen == [(k, k + 15) for k in range(16)]
    assert maps.fused.shape == (1, 16, 4, 4)
    seen.clear()
    teacher(frames[:, 12:], 3, 16)  # near the video's start the first frame stands for those missing
    assert seen[0] == (12, 15)
    assert seen[-1] == (15, 30)
    seen.clear()
    assert teacher(frames, 15, 1).fused.shape == (1, 1, 4, 4)
    assert seen == [(15, 30)]


def test_sparse_sliding_interpolates():
    assert sliding_ends(16, 1) == list(range(16))
    assert sliding_ends(16, 8) == [7, 15]
    assert sliding_ends(16, 15) == [0, 15]
    values = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    series = interpolate_in_time(values, [7, 15], 16).flatten()
    assert series[:8].tolist() == [1] * 8
    assert series[11].item() == pytest.approx(2)
    assert series[15] == 3


def test_ensemble_is_the_mean_of_normalized_maps():
    torch.manual_seed(0)
    models = [TinyHD(TinyHDConfig(channel_reduction=4)) for _ in range(2)]
    teachers = [MultiOutputTeacher(m) for m in models]
    frames = torch.randint(0, 255, (1, 31, 3, 64, 64), dtype=torch.uint8)
    parts = [t(frames, 15, 16) for t in teachers]
    both = Ensemble(teachers)(frames, 15, 16)
    torch.testing.assert_close(both.fused, (parts[0].fused + parts[1].fused) / 2)
    torch.testing.assert_close(both.fused.sum((-2, -1)), torch.ones(1, 16))
    torch.testing.assert_close(both.d3, (parts[0].d3 + parts[1].d3) / 2)


def test_unusable_teachers_are_refused(tmp_path):
    path = tmp_path / "no_d1.safetensors"
    save_model(TinyHD(TinyHDConfig(channel_reduction=4, decoders=("d2",))), path)
    with pytest.raises(WeightsError, match="D1"):
        load_teacher([str(path)])
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="HD2S"):
        load_teacher([f"hd2s:{tmp_path / 'other.pth'}"])


# --- starting weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rc", [1, 4])
def test_inflated_encoder_gives_the_image_networks_features_on_a_still_clip(rc, shared):
    from PIL import Image

    path = shared / "backbone/mobilenet_v2_imagenet_folded.npz"
    photos = sorted((shared / "data/unlabelled/images").iterdir())[:4]
    images = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(p).convert("RGB").resize((128, 96)))).permute(2, 0, 1) for p in photos]
    )
    clips = imagenet_clip(images[:, None].expand(-1, 16, -1, -1, -1))
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(channel_reduction=rc))
    inflate_imagenet(model, path, clips)
    outputs: list[torch.Tensor] = []
    for layer in model.encoder.layers[:4]:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.inference_mode():
        model.encoder.train()
        model.encoder(clips)
    assert all(torch.isfinite(o).all() for o in outputs)
    if rc == 1:  # the image network's own first layers, on [-1, 1] input
        with np.load(path) as stored:
            first = [
                torch.from_numpy(stored[k].astype(np.float32)) for k in stored.files if k.startswith("features.0.")
            ]
        weight, bias = sorted(first, key=lambda t: -t.ndim)
        expected = F.relu6(F.conv2d(images.float() / 127.5 - 1, weight, bias, stride=2, padding=1))
        inner = outputs[0][:, :, 4, 4:-4, 4:-4]
        # the norm removes the mean that border padding shifts a little
        assert np.corrcoef(inner.flatten(), expected[..., 4:-4, 4:-4].flatten())[0, 1] > 0.999


def test_decoders_start_on_a_dark_ground():
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(channel_reduction=4))
    start_decoders(model)
    with torch.inference_mode():
        out = model.train()(torch.randn(2, 3, 16, 64, 64))
    assert out.decoders["d1"].median() < 0.05
    assert out.fused.median() < 0.2


# --- the run ----------------------------------------------------------------------------------------------------------


def losses(out: Path, name: str = "teacher") -> list[float]:
    rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()[1:]]
    return [float(value) for _, key, value in rows if key == name]


def test_the_loss_falls_and_the_best_weights_load(tmp_path, pack):
    config = run_config(
        tmp_path / "run",
        pack,
        steps=40,
        validate_every=20,
        validation=[{"folder": str(pack), "teacher": "square"}],
        packs=[{"folder": str(pack), "teacher": "square", "labelled": True}],
    )
    assert Trainer(config, torch.device("cpu"), Process()).run()
    values = losses(tmp_path / "run")
    assert np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
    assert list((tmp_path / "run/pictures").glob("*.png"))
    model = load_model(tmp_path / "run/best.safetensors")
    assert model.config == config.model


def test_ctrl_c_does_afterwards_what_it_did_before(tmp_path, pack):
    before = signal.getsignal(signal.SIGINT)
    assert Trainer(run_config(tmp_path / "run", pack, steps=1), torch.device("cpu"), Process()).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_is_exact_to_the_bit(tmp_path, pack):
    options = {"augmentation": {"flip": 0.5, "crop": 0.8, "brightness": 0.1}}
    whole = Trainer(run_config(tmp_path / "whole", pack, **options), torch.device("cpu"), Process())
    assert whole.run()
    part = Trainer(run_config(tmp_path / "part", pack, **options), torch.device("cpu"), Process())
    batches = part.batches()
    for _ in range(3):
        part.step(next(batches))
    part.out.mkdir()
    part.save()
    resumed = Trainer(run_config(tmp_path / "part", pack, **options), torch.device("cpu"), Process())
    assert resumed.state.step == 3
    assert resumed.run()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert all(torch.equal(v, resumed.average.values[k]) for k, v in whole.average.values.items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path, pack):
    trainer = Trainer(run_config(tmp_path / "run", pack), torch.device("cpu"), Process())
    trainer.out.mkdir()
    trainer.save()
    other = run_config(tmp_path / "run", pack, model={"channel_reduction": 2})
    with pytest.raises(InputError, match="another model"):
        Trainer(other, torch.device("cpu"), Process())


def test_frozen_layers_keep_weights_and_statistics(tmp_path, pack):
    trainer = Trainer(run_config(tmp_path / "run", pack, frozen_layers=4, steps=2), torch.device("cpu"), Process())
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.run()
    after = trainer.model.state_dict()
    frozen = tuple(f"encoder.layers.{k}." for k in range(4))
    for key, value in before.items():
        same = torch.equal(value, after[key])
        assert same or not key.startswith(frozen), key
        assert not same or key.startswith(frozen) or value.numel() < 4, key


def test_fixed_norms_learn_the_same_as_norms_in_eval_mode(tmp_path, pack):
    torch.manual_seed(0)
    plain, fixed = (TinyHD(TinyHDConfig(channel_reduction=4, output_stride=4)).double() for _ in range(2))
    for norm in (m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm3d)):
        torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -0.2, 0.2)
    fixed.load_state_dict(plain.state_dict())
    fix_norms(fixed)
    plain_convolutions(plain, True)
    clip = torch.randn(2, 3, 16, 64, 64).double()
    gradients = []
    for model, training in ((plain, False), (fixed, True)):
        model.train(training)
        maps = model(clip).fused
        (maps.std() + maps.mean()).backward()
        gradients.append((maps.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    for name, expected in gradients[0][1].items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients[1][1][name], expected, rtol=1e-5, atol=1e-6 * scale + 1e-12, msg=name)

    trainer = Trainer(run_config(tmp_path / "run", pack, norms="fixed", steps=2), torch.device("cpu"), Process())
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.run()
    for key, value in trainer.model.state_dict().items():
        assert ("running" in key or "tracked" in key) == torch.equal(value, before[key]) or value.numel() < 4, key


def test_a_small_model_starts_from_a_wide_one(tmp_path, pack):
    wide = TinyHD(TinyHDConfig(output_stride=4, sampling_rate=15.0))
    save_model(wide, tmp_path / "wide.safetensors")
    small = TinyHDConfig(channel_reduction=2, decoders=("d1", "d2"), output_stride=4, sampling_rate=15.0)
    options = {"narrow": str(tmp_path / "wide.safetensors"), "norms": "fixed", "steps": 1}
    trainer = Trainer(run_config(tmp_path / "run", pack, model=small, **options), torch.device("cpu"), Process())
    stem, kept = wide.encoder.layers[0].conv.weight, trainer.model.encoder.layers[0].conv.weight
    assert all((stem == row).flatten(1).all(1).any() for row in kept)
    assert trainer.run()
    with pytest.raises(InputError, match="but the model is"):
        Trainer(run_config(tmp_path / "other", pack, **options), torch.device("cpu"), Process())


def test_a_teacher_that_runs_while_training(tmp_path, pack):
    weights = tmp_path / "teacher.safetensors"
    save_model(TinyHD(TinyHDConfig(channel_reduction=4)), weights)
    config = run_config(
        tmp_path / "run",
        pack,
        packs=[{"folder": str(pack)}],
        teachers=[str(weights)],
        loss={"decoders": 1.0},
        steps=2,
        batch=2,
        schedule="steps",
        optimizer="sgd",
        precision="bfloat16",
    )
    assert Trainer(config, torch.device("cpu"), Process()).run()
    assert np.isfinite(losses(tmp_path / "run", "decoders")).all()


def config_file(tmp_path: Path, pack: Path, steps: int) -> Path:
    import yaml

    path = tmp_path / "run.yaml"
    values = run_config(tmp_path / "run", pack, steps=steps).to_dict()
    plain = yaml.safe_load(yaml.safe_dump(_lists(values)))
    path.write_text(yaml.safe_dump(plain))
    return path


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_two_processes_train_one_model(tmp_path, pack):
    path = config_file(tmp_path, pack, 4)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training.train", "--config", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"})
    stored = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert stored["state"]["step"] == 4
    assert (tmp_path / "run/last.safetensors").exists()


def test_interrupting_saves_and_says_how_to_go_on(tmp_path, pack):
    path = config_file(tmp_path, pack, 100_000)
    command = [sys.executable, "-m", "training.train", "--config", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["state"]["step"] > 0


def test_schedules(tmp_path, pack):
    cosine = run_config(tmp_path, pack, steps=100, warmup=10)
    factors = [rate_at(k, cosine) for k in range(100)]
    assert factors[0] < factors[9] < 1
    assert factors[10] == pytest.approx(1)
    assert factors[99] == pytest.approx(0.01, abs=0.01)
    paper = run_config(tmp_path, pack, steps=200, warmup=0, schedule="steps")
    assert paper_milestones(200) == [100, 150, 180]
    assert [rate_at(k, paper) for k in (99, 100, 150, 180)] == pytest.approx([1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stepps=3"], "no option 'stepps'"),
        (["augmentation.flipp=1"], "no option 'augmentation.flipp'"),
        (["model.sttride=1"], "no option 'model.sttride'"),
        (["steps=-1"], "at least 1"),
        (["size=[100,100]"], "multiples of 32"),
        (["model.channel_reduction=3"], "1, 2 or 4"),
        (["steps"], "name=value"),
        (["rate=fast"], "rate is 'fast': .*valid number"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path, pack, overrides, words):
    with pytest.raises(OptionError, match=words):
        read_config(config_file(tmp_path, pack, 3), overrides)


def test_overrides_are_read_as_yaml(tmp_path, pack):
    config = read_config(config_file(tmp_path, pack, 3), ["rate=2e-4", "size=[96, 128]", "batch=7"])
    assert (config.rate, config.batch, config.size) == (2e-4, 7, (96, 128))


def test_shipped_configurations_are_valid():
    for path in sorted((ROOT / "training/configs").glob("*.yaml")):
        read_config(path)


def test_a_released_model_is_half_as_large_and_the_same(tmp_path, pack):
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(channel_reduction=4, output_stride=4)).eval()
    start_decoders(model)
    trained, shipped = tmp_path / "trained.safetensors", tmp_path / "models/shipped.safetensors"
    save_model(model, trained)
    release(str(trained), pack, shipped)
    assert shipped.stat().st_size < 0.6 * trained.stat().st_size
    loaded = load_model(shipped)
    clip = torch.randn(1, 3, 16, 64, 64)
    with torch.inference_mode():
        a, b = model(clip).fused, loaded(clip).fused
    torch.testing.assert_close(a, b, rtol=0.02, atol=0)
    assert loaded.config.display_scale == pytest.approx(usual_maximum(model, pack, 30), rel=0.1)
    lower(model, 6, power=1.5)
    with torch.inference_mode():
        expected = normalize_sum((a / (1 - a)) ** 1.5)
        torch.testing.assert_close(normalize_sum(model(clip).fused), expected, rtol=0.01, atol=0)


def test_a_released_mixture_lies_between_the_two(tmp_path, pack):
    torch.manual_seed(0)
    models = [TinyHD(TinyHDConfig(channel_reduction=4, output_stride=4)) for _ in range(2)]
    paths = [tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"]
    for model, path in zip(models, paths, strict=True):
        save_model(model, path)
    out = tmp_path / "mixed.safetensors"
    release(str(paths[0]), pack, out, rate=15, base=str(paths[1]), share=0.25)
    mixed = load_model(out)
    assert mixed.config.sampling_rate == 15
    key = "encoder.layers.3.expand.conv.weight"
    tuned, base = (model.state_dict()[key] for model in models)
    torch.testing.assert_close(mixed.state_dict()[key], base + 0.25 * (tuned - base), rtol=1e-2, atol=1e-3)


def test_a_data_set_of_labelled_videos_becomes_labelled_clips(tmp_path, capsys):
    from PIL import Image

    shot = tmp_path / "ucf/training/Diving-Side-001"
    for part in ("images", "maps", "fixation"):
        (shot / part).mkdir(parents=True)
    for k in range(1, 21):
        fixated = np.zeros((24, 32), np.uint8)
        fixated[6, k] = 255  # moves to the right, a pixel a frame
        name = f"001_{k:03d}.png"
        Image.fromarray(np.full((24, 32, 3), 10 * k, np.uint8)).save(shot / "images" / name)
        Image.fromarray(fixated).save(shot / "maps" / name)
        Image.fromarray(fixated).save(shot / "fixation" / name)
    pack = tmp_path / "pack"
    command = ["pack", "--out", str(pack), "--stride", "2", "--labelled-videos", "ucf-sports", str(tmp_path / "ucf")]
    assert distill_data.main(command) == 0
    names = clip_names(pack)
    assert len(names) in (2, 3)
    for name in names:
        clip = read_clip(pack, name)
        first = int(name.rpartition(".")[2])
        shown = clip.frames[clip.lead, 0, 0, 0]
        assert abs(int(shown) - 10 * (first + 1)) <= 3
        assert clip.points[:, 0].tolist() == list(range(16))
        np.testing.assert_allclose(clip.points[:, 1], (np.arange(16) + first + 1.5) / 32, atol=1e-6)
        np.testing.assert_allclose(clip.points[:, 2], 6.5 / 24, atol=1e-6)
    assert distill_data.main([*command[:-2], "dhf2k", str(tmp_path)]) == 1
    assert "it must be one of dhf1k, hollywood2, ucf-sports" in capsys.readouterr().err
