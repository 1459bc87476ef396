"""Training inside the image tower: from files, from cached pixels, on two processes, and what keeps weights in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.training import losses, stopped_before
from tests.helpers.two_processes import Gradients, OfTwo, check, gradients_of
from videoclip.backbone.openclip import OpenClip
from videoclip.config import AverageConfig, RunConfig, TrainConfig
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import CheckpointError, DataError, StoreError
from videoclip.features import VideoPixels
from videoclip.loss import distillation
from videoclip.model import VideoTextModel, create_model, load_model
from videoclip.store import FeatureStore
from videoclip.store.dataset import Batch
from videoclip.store.extract import Extras, cache_features
from videoclip.store.source import PixelSource
from videoclip.training.averaging import make_average
from videoclip.training.evaluate import evaluate, source_for
from videoclip.training.loop import train
from videoclip.training.task import ContrastiveTask
from videoclip.video.clip import FrameChoice
from videoclip.weights import blend, merge

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"
# One of each family, without anything random in training.
FAMILIES: dict[str, dict[str, Any]] = {
    "prompts": {"image_tuning": {"name": "vop", "tokens": 4, "special": "context"}, "text_tuning": "vop_text"},
    "adapters": {"image_tuning": {"name": "st_adapter", "hidden": 16}, "text_tuning": "text_adapter"},
    "messages": {"image_tuning": "cross_frame", "similarity": {"name": "video_prompts", "heads": 4}},
    "lora": {"image_tuning": {"name": "lora", "dropout": 0.0}, "text_tuning": {"name": "lora", "dropout": 0.0}},
    "branch": {"image_tuning": ["full", {"name": "stan", "depth": 2, "drop_path": 0.0}]},
    "tokens": {"image_tuning": ["partial", "token_shift", "patch3d"], "similarity": "frame_softmax"},
}


@pytest.fixture(scope="module")
def stores(shapes: Path, tiny: OpenClip, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    """Features with each frame's pixels, as they are and as JPEG."""
    found = {}
    for kind in ("uint8", "jpeg"):
        folder = tmp_path_factory.mktemp(kind) / "store"
        extras = Extras(pixels=kind)  # type: ignore[arg-type]
        cache_features(read_manifest(shapes), folder, tiny, FrameChoice(frames=12), workers=0, extras=extras)
        found[kind] = FeatureStore(folder)
    return found


@pytest.fixture(scope="module")
def clips(shapes: Path) -> list[Clip]:
    return of_split(read_manifest(shapes), "test", shapes)


def run_config(
    shapes: Path, store: FeatureStore | None, model: dict[str, Any], **sections: dict[str, Any]
) -> RunConfig:
    data = {"manifest": shapes, "source": "videos", **sections.get("data", {})}
    if store is not None:
        data["store"] = store.folder
    settings = {"epochs": 2, "batch_size": 24, "precision": "fp32", "workers": 0, **sections.get("train", {})}
    return RunConfig.model_validate({"data": data, "model": {"frames": 4, **model}, "train": settings})


@pytest.mark.parametrize("similarity", ["mean", "tokens"])
def test_pixels_give_the_scores_of_the_store(
    similarity: str, clips: list[Clip], stores: dict[str, FeatureStore], tiny: OpenClip
) -> None:
    """Frozen towers: from the store, from its pixels, from files; equal but for the store's half precision."""
    torch.manual_seed(0)
    model = create_model("tiny", temporal="transformer", similarity=similarity, frames=4).eval()
    store = stores["uint8"]
    expected = evaluate(model, store, clips).scores.whole()
    for source in (PixelSource.of(clips, store, tiny.preprocess), PixelSource.of(clips, None, tiny.preprocess)):
        found = evaluate(model, source, clips).scores.whole()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    lossy = evaluate(model, PixelSource.of(clips, stores["jpeg"], tiny.preprocess), clips).scores.whole()
    torch.testing.assert_close(lossy, expected, atol=0.05, rtol=0)


def test_cached_pixels_are_the_decoded_ones(clips: list[Clip], stores: dict[str, FeatureStore], tiny: OpenClip) -> None:
    ids = [clip.id for clip in clips]
    decoded = PixelSource.of(clips, None, tiny.preprocess).pixels(ids, 12)
    for kind, allowed in (("uint8", 0), ("jpeg", 12)):
        cached = stores[kind].pixels(ids, 12)
        assert (cached.pixels.int() - decoded.pixels.int()).abs().float().mean() <= allowed / 4
        assert torch.equal(cached.mask, decoded.mask)
        torch.testing.assert_close(cached.seconds, decoded.seconds)
    assert torch.equal(stores["uint8"].pixels(ids, 12).pixels, decoded.pixels)
    thinned = stores["uint8"].pixels(ids[:1], 4, [np.random.default_rng(0)])
    assert thinned.pixels.shape == (1, 4, 3, 64, 64) and thinned.mask.all()


def test_training_from_store_and_from_pixels(shapes: Path, stores: dict[str, FeatureStore], tmp_path: Path) -> None:
    """The same run of a temporal encoder over frozen towers: losses differ by the store's rounding alone."""
    model = {"temporal": {"name": "lstm"}}
    found = {}
    for source in ("store", "videos"):
        config = run_config(shapes, stores["uint8"], model, data={"source": source, "sampling": "random"})
        assert train(config, tmp_path / source) is not None
        found[source] = losses(tmp_path / source)
    assert found["store"] != found["videos"]
    torch.testing.assert_close(torch.tensor(found["videos"]), torch.tensor(found["store"]), atol=2e-2, rtol=1e-2)


def interruptible(shapes: Path, store: FeatureStore | None, **settings: Any) -> RunConfig:
    """Return a run in which everything random is on: drawn frames, crops, an average of weights."""
    model = {"image_tuning": {"name": "st_adapter", "hidden": 8}}
    settings = {"average": {"name": "ema", "decay": 0.5}, "checkpoint_steps": 1, "epochs": 2, **settings}
    data = {"sampling": "random", "augmentation": "crop"}
    return run_config(shapes, store, model, data=data, train=settings)


def same_run(one: Path, two: Path) -> None:
    assert losses(one) == losses(two)
    weights, others = load_model(one).trained(), load_model(two).trained()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_interruptions_change_nothing(shapes: Path, stores: dict[str, FeatureStore], tmp_path: Path) -> None:
    """Stopped in mid-epoch and resumed, with a worker, augmented, averaged: the weights of an uninterrupted run."""
    assert train(interruptible(shapes, stores["uint8"]), tmp_path / "whole") is not None
    config = interruptible(shapes, stores["uint8"], workers=1)
    with stopped_before(2):
        train(config, tmp_path / "cut")
    assert train(config, tmp_path / "cut", resume=True) is not None
    same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "jpeg"])
def test_workers_and_kills_change_nothing(
    kind: str, shapes: Path, stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    """Killed in mid-epoch and resumed with a worker, augmented, averaged: the weights of an uninterrupted run."""
    config = interruptible(shapes, stores.get(kind))
    assert train(config, tmp_path / "whole") is not None
    values = config.model_dump(mode="json")
    values["train"]["workers"] = 1
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    command = [sys.executable, str(TRAIN), str(tmp_path / "c.yaml"), "--out", str(tmp_path / "cut")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        if (tmp_path / "cut" / "metrics.jsonl").exists() and len(losses(tmp_path / "cut")) >= 2:
            process.kill()
            break
    process.wait()
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, env=environment, timeout=300)
    same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_clips_frames_are_augmented_alike(tiny: OpenClip, clips: list[Clip], stores: dict[str, FeatureStore]) -> None:
    """The same frame twice stays the same frame twice, cropped by the clip's generator and by nothing else."""
    source = PixelSource.of(clips, stores["uint8"], tiny.preprocess, "crop_flip")
    ids = [clips[0].id] * 8
    views = [source.pixels(ids, 12, [np.random.default_rng(n) for n in range(8)]).pixels for _ in range(2)]
    assert torch.equal(*views) and not torch.equal(views[0][0], views[0][1])
    plain = source.pixels(ids[:1], 12).pixels
    assert torch.equal(plain, stores["uint8"].pixels(ids[:1], 12).pixels)
    still = (plain[0, :1] == plain[0]).all(0).all(0)  # where nothing moves, nothing may after the crop either
    assert still.float().mean() > 0.3
    moving = [(view[1:] != view[:1]).any(1).any(0).float().mean() for view in views[0]]
    assert max(moving) < 0.7


def family_task(name: str) -> ContrastiveTask:
    torch.manual_seed(0)
    model = create_model("tiny", **FAMILIES[name], frames=3)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return ContrastiveTask(model, TrainConfig()).double()


def family_batch(name: str) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    mask = torch.arange(3) < torch.tensor([3, 2, 3, 3])[:, None]
    tokens = create_model("tiny").backbone.tokenize([f"a {c} circle" for c in ("red", "blue", "green", "white")])  # type: ignore[union-attr]
    return Batch(VideoPixels(pixels, mask, torch.zeros(4, 3)), tokens, torch.arange(4), torch.arange(4))


def family_gradients(name: str, batch: Batch) -> Gradients:
    task = family_task(name)
    normalise = task.model.backbone.preprocess.normalize  # type: ignore[union-attr]
    video = batch.video
    assert isinstance(video, VideoPixels)
    double = VideoPixels(
        normalise(video.pixels.flatten(0, 1)).double().view(video.pixels.shape), video.mask, video.seconds
    )
    task.backward(Batch(double, batch.text, batch.video_ids, batch.text_ids))
    return gradients_of(task)


def one_of_two(rank: int) -> dict[str, Gradients]:
    mine = torch.arange(rank, 4, 2)
    return {name: family_gradients(name, family_batch(name)[mine]) for name in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_two_processes_give_the_gradients_of_one(name: str, of_two: OfTwo) -> None:
    expected = family_gradients(name, family_batch(name))
    for found in of_two[__name__]:
        check(found[name], expected)


@pytest.mark.slow
def test_torchrun_trains_each_family(shapes: Path, stores: dict[str, FeatureStore], tmp_path: Path) -> None:
    """Two processes log the losses of one."""
    script = tmp_path / "families.py"
    for name, model in FAMILIES.items():
        config = run_config(shapes, stores["uint8"], model, train={"epochs": 1, "lr": 1e-4})
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom videoclip.config import load_config\n"
        "from videoclip.training.loop import train\nfrom videoclip.training.processes import leave_launch\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.yaml')):\n"
        "    train(load_config(path), Path(sys.argv[1]) / sys.argv[2] / path.stem)\nleave_launch()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    for command, folder in ((two, "two"), ([sys.executable, str(script)], "one")):
        subprocess.run(
            [*command, str(tmp_path), folder], check=True, stdout=subprocess.DEVNULL, env=environment, timeout=600
        )
    for name in FAMILIES:
        one, both = losses(tmp_path / "one" / name), losses(tmp_path / "two" / name)
        assert len(one) == 3
        torch.testing.assert_close(torch.tensor(both), torch.tensor(one), atol=2e-3, rtol=2e-3, msg=name)


def test_the_anchor_holds_the_towers(shapes: Path, stores: dict[str, FeatureStore]) -> None:
    """Nothing where they started; afterwards half its strength times the squared distance, of their own weights alone."""
    model = create_model("tiny", image_tuning=["full", "bottleneck"], frames=3)  # type: ignore[list-item]
    batch = family_batch("plain")
    free, held = (ContrastiveTask(model, TrainConfig(anchor=a)) for a in (0.0, 3.0))
    assert torch.equal(free(batch), held(batch))
    moved = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(0.01)
                moved += parameter.numel() * 0.01**2 if name in model.pretrained else 0
    torch.testing.assert_close(held(batch) - free(batch), torch.tensor(3 / 2 * moved), rtol=1e-3, atol=1e-3)


def test_the_teacher_is_the_model_as_it_was_loaded() -> None:
    """At its start a student of the same form has nothing to learn from it."""
    teacher = create_model("tiny", frames=3).eval()
    batch = family_batch("plain")
    for image, learns in (("full", False), ("token_shift", True)):
        student = create_model("tiny", image_tuning=image, text_tuning="full", frames=3).eval()
        plain = ContrastiveTask(student, TrainConfig())
        taught = ContrastiveTask(student, TrainConfig(distillation=0.25), teacher)
        lesson = (taught(batch) - 0.75 * plain(batch)) / 0.25
        assert (lesson > 1e-2) == learns
        assert not any("teacher" in name for name, _ in taught.named_parameters())
    student, scale = torch.tensor([[0.3, 0.1], [0.2, 0.5]]), torch.tensor(4.0)
    other = torch.tensor([[0.4, 0.0], [0.1, 0.2]])
    by_hand = 0.0
    for matrix, target in ((student, other), (student.T, other.T)):
        p, q = (4 * target).softmax(1), (4 * matrix).softmax(1)
        by_hand += float((p * (p / q).log()).sum()) / 2 * 16
    assert float(distillation(student, other, scale)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["ema", "beta"])
def test_averages_are_those_of_all_snapshots(name: str) -> None:
    module = torch.nn.Linear(2, 2)
    average = make_average(AverageConfig(name=name, decay=0.7), module, 3)  # type: ignore[arg-type]
    assert average is not None
    snapshots = [module.weight.detach().clone()]
    for _ in range(3):
        module.weight.data += torch.randn(2, 2)
        snapshots.append(module.weight.detach().clone())
        average.update(module)
    beta = torch.distributions.Beta(torch.tensor(0.5), torch.tensor(0.5)).log_prob((torch.arange(4) + 0.5) / 4).exp()
    weights = {"ema": [0.7**3, 0.3 * 0.7**2, 0.3 * 0.7, 0.3], "beta": (beta / beta.sum()).tolist()}[name]
    expected = sum(w * s for w, s in zip(weights, snapshots, strict=True))
    torch.testing.assert_close(average.average["weight"], expected)
    with average.applied(module):
        torch.testing.assert_close(module.weight, expected)
    assert torch.equal(module.weight, snapshots[-1])


def towers_of(model: VideoTextModel) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.state_dict().items() if n.startswith(("backbone.", "logit_scale"))}


def test_blending_is_a_straight_line(tmp_path: Path) -> None:
    """Its ends are the models, between them every weight of the towers is, whatever tuned them; the result is a CLIP."""
    tunings = {
        "a": ("partial", "full"),
        "b": ("lora", "r_adapter"),
        "c": ("st_adapter", "none"),
        "d": ("st_adapter", "none"),
    }
    for number, (name, (image, text)) in enumerate(tunings.items()):
        torch.manual_seed(number)
        model = create_model("tiny", image_tuning=image, text_tuning=text, frames=3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.01 * torch.randn(parameter.shape)
        model.save(tmp_path / name)
    create_model("tiny", temporal="lstm", frames=3).save(tmp_path / "lstm")
    start = towers_of(create_model("tiny"))
    a, b = (towers_of(merge(load_model(tmp_path / name), tmp_path / f"merged {name}")) for name in ("a", "b"))
    assert start.keys() == a.keys() == b.keys() and not torch.equal(a["logit_scale"], b["logit_scale"])
    for first, theirs in (("pretrained", start), (tmp_path / "a", a)):
        for alpha in (0.0, 0.3, 1.0):
            mixed = blend(first, tmp_path / "b", alpha, tmp_path / f"{alpha}")
            for name, tensor in towers_of(mixed).items():
                torch.testing.assert_close(tensor, (1 - alpha) * theirs[name] + alpha * b[name], atol=1e-6, rtol=1e-5)
            assert not mixed.config.live_images and load_model(tmp_path / f"{alpha}").backbone is not None
    c, d = (load_model(tmp_path / name).trained() for name in ("c", "d"))
    half = blend(tmp_path / "c", tmp_path / "d", 0.5, tmp_path / "half").trained()
    assert half.keys() == c.keys() and all(torch.allclose(half[n], (c[n] + d[n]) / 2, atol=1e-6) for n in half)
    with pytest.raises(CheckpointError, match="differ in temporal"):
        blend(tmp_path / "a", tmp_path / "lstm", 0.5, tmp_path / "no")
    with pytest.raises(CheckpointError, match="differ in image_tuning, text_tuning"):
        blend(tmp_path / "a", tmp_path / "c", 0.5, tmp_path / "no")
    with pytest.raises(CheckpointError, match="trained parts that no pretrained model has, such as temporal"):
        blend("pretrained", tmp_path / "lstm", 0.5, tmp_path / "no")
    with pytest.raises(CheckpointError, match="trained parts that no pretrained model has, such as image_tuning"):
        blend("pretrained", tmp_path / "c", 0.5, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_mistakes_with_pixels_are_told(
    shapes: Path, shapes_store: FeatureStore, stores: dict[str, FeatureStore], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"model.image_tuning \(st_adapter\) runs the image tower: set data.source"):
        RunConfig.model_validate(
            {"data": {"manifest": "m", "store": "s"}, "model": {"image_tuning": {"name": "st_adapter"}}}
        )
    with pytest.raises(ValueError, match="store is missing"):
        RunConfig.model_validate({"data": {"manifest": "m"}})
    with pytest.raises(ValueError, match="augmentation works on pixels drawn at random"):
        RunConfig.model_validate({"data": {"manifest": "m", "source": "videos", "augmentation": "crop"}})
    with pytest.raises(StoreError, match="holds no pixels of its frames; cache with --pixels"):
        shapes_store.pixels(shapes_store.ids[:1])
    model = create_model("tiny", image_tuning="full", frames=3)
    with pytest.raises(StoreError, match="holds no pixels"):
        model.encode_video(shapes_store)
    assert model.encode_video(stores["jpeg"]).frames.shape[0] == len(stores["jpeg"])
    with pytest.raises(DataError, match="This model reads cached frames"):
        source_for(create_model("tiny"), None, [])
    lines = shapes.read_text().splitlines()
    gone = [line.replace("train/0000", "train/gone") for line in lines]
    manifest = shapes.parent / "gone.jsonl"
    manifest.write_text("\n".join(gone))
    config = run_config(manifest, None, {"image_tuning": "full"})
    with pytest.raises(DataError, match=r"the video files: 1 of 24 clips are not there, the first is .*no such file"):
        train(config, tmp_path / "run")


def test_a_file_that_cannot_be_decoded_is_named(shapes: Path, tmp_path: Path, tiny: OpenClip) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    source = PixelSource.of([Clip(id="bad", path=bad)], None, tiny.preprocess)
    with pytest.raises(DataError, match=r"clip 'bad' cannot be read .*bad.mp4.*videoclip cache --pixels"):
        source.pixels(["bad"], 4)
