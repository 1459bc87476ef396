"""What every tuning promises, on the tiny CLIP and real decoded videos. A new file in videoclip/tuning is tested by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.backbone import create_backbone
from videoclip.config import Component
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import BackboneError, ConfigError
from videoclip.features import VideoPixels
from videoclip.model import VideoTextModel, checkpoint_blocks, create_model, load_model
from videoclip.registry import components
from videoclip.store.source import PixelSource
from videoclip.weights import merge

# Options beside the defaults, where those are large for four blocks of width 128 or where there are several forms.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "aim": [{}, {"before_time": True, "frames": 2}],
    "bottleneck": [{"hidden": 16}],
    "evl": [{"layers": 2, "frames": 2}],
    "lora": [{}, {"rank": 4, "parts": ["query", "out"]}],
    "partial": [{}, {"blocks": 1, "norms": True}, {"blocks": 0, "projection": True}],
    "st_adapter": [{"hidden": 16}, {"hidden": 16, "kernel": [3, 3, 3], "blocks": 2, "places": ["attention", "mlp"]}],
    "stan": [{"depth": 2}, {"depth": 1, "time": "convolution", "frames": 2}],
    "ted_adapter": [{"hidden": 16, "places": ["attention", "mlp"]}],
    "text_adapter": [{"hidden": 16}],
    "token_selection": [{"k": 2, "samples": 20}],
    "vifi": [{"tokens": 3, "depth": 2}],
    "vop": [
        {"tokens": 2},
        {"tokens": 4, "special": "position", "frames": 2},
        {"tokens": 4, "special": "context"},
        {"tokens": 2, "joint_from": 3, "frames": 2},
        {"tokens": 4, "special": "position", "joint_from": 2},
        {"tokens": 4, "special": "context", "joint_from": 2},
    ],
    "vop_text": [{"prefix": 2, "suffix": 2}, {"prefix": 2, "suffix": 2, "place": "original"}],
}
# By default each tuning is tested in its first form; its others are slow.
CASES = [
    pytest.param(side, name, options, id=f"{side}-{name}-{number}", marks=[pytest.mark.slow] if number else [])
    for name, tuning in components("tuning").items()
    for side in tuning.towers
    for number, options in enumerate(OPTIONS.get(name, [{}]))
]
# What the dear tests look at by default: a tuning of the weights, a folded one, prompts, an adapter, a side branch.
SAMPLED = ("image-lora-0", "image-st_adapter-0", "image-stan-0", "image-vop-0", "text-full-0", "text-lora-0")


def sampled(*ids: str) -> list[Any]:
    """Return all cases; those that are not named are slow."""
    return [pytest.param(*c.values, id=c.id, marks=[] if c.id in ids else [pytest.mark.slow]) for c in CASES]


WITHOUT_PARAMETERS = ("none", "token_shift")
PARTS = {"token_selection": {"temporal": Component(name="token_transformer", options={"layers": 1})}}


def tuned(side: str, name: str, options: dict[str, Any], **parts: Any) -> VideoTextModel:
    torch.manual_seed(0)
    return create_model("tiny", **{f"{side}_tuning": Component(name=name, options=options)}, frames=4, **parts)


@pytest.fixture(scope="module")
def clips(shapes: Path) -> list[Clip]:
    return of_split(read_manifest(shapes), "train", shapes)[:4]


@pytest.fixture(scope="module")
def pixels(clips: list[Clip], tiny: Any) -> VideoPixels:
    """Decoded now; the last clip has two real frames of four."""
    source = PixelSource.of(clips, None, tiny.preprocess)
    video = source.pixels([clip.id for clip in clips], 4)
    video.mask[-1, 2:] = False
    return video


def loss_of(model: VideoTextModel, video: VideoPixels, tokens: Tensor) -> Tensor:
    logits = model(tokens, video)
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@pytest.mark.parametrize(("side", "name", "options"), sampled(*SAMPLED))
def test_it_learns_what_it_declares_and_nothing_else(
    side: str, name: str, options: dict[str, Any], clips: list[Clip], pixels: VideoPixels, tmp_path: Path
) -> None:
    model = tuned(side, name, options, **PARTS.get(name, {})).train()
    assert model.backbone is not None
    tokens = model.backbone.tokenize([clip.captions[0] for clip in clips])
    other = (
        model.backbone.encode_text(tokens).sentence
        if side == "image"
        else model.backbone.encode_image(pixels.pixels[0])
    )
    before = {n: t.clone() for n, t in model.state_dict().items()}
    declared = {n for n, p in model.named_parameters() if p.requires_grad}
    model.logit_scale.requires_grad_(False)  # or the loss could fall without the tuning
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert bool(parameters) == (name not in WITHOUT_PARAMETERS)
    if parameters:
        optimizer = torch.optim.Adam(parameters, 1e-3)
        losses = []
        for _ in range(5):
            loss = loss_of(model, pixels, tokens)
            optimizer.zero_grad()
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in parameters)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed <= declared
    assert bool(changed) == bool(parameters)
    again = (
        model.backbone.encode_text(tokens).sentence
        if side == "image"
        else model.backbone.encode_image(pixels.pixels[0])
    )
    assert torch.equal(again, other)  # the tower that was left alone
    model.eval().logit_scale.requires_grad_(True)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        expected = model(tokens, pixels)
        assert torch.equal(loaded(tokens, pixels), expected)
        if type(model.get_submodule(f"{side}_tuning.0")).mergeable:
            merged = merge(loaded, tmp_path / "merged")
            torch.testing.assert_close(merged(tokens, pixels), expected, atol=2e-4, rtol=2e-4)
            again = load_model(tmp_path / "merged")
            assert torch.equal(again(tokens, pixels), merged(tokens, pixels))
            assert not again.config.live_images and not again.config.live_texts
    held = sum(t.numel() for t in model.trained().values())
    assert held == sum(p.numel() for n, p in model.named_parameters() if n in declared)


def disturbed(model: VideoTextModel) -> VideoTextModel:
    """With random numbers in what the tunings bring along, so that nothing is at its idle start."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in model.pretrained and name != "logit_scale":
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize(("side", "name", "options"), [case for case in CASES if case.values[0] == "image"])
def test_padding_and_neighbours_change_nothing(
    side: str, name: str, options: dict[str, Any], pixels: VideoPixels
) -> None:
    model = disturbed(tuned(side, name, options))
    with torch.no_grad():
        expected = model.encode_pixels(pixels)
        garbage = VideoPixels(pixels.pixels.clone(), pixels.mask, pixels.seconds)
        garbage.pixels[-1, 2:] = 77
        found = model.encode_pixels(garbage)
        assert torch.equal(found.frames, expected.frames)
        assert expected.tokens is None or torch.equal(found.tokens, expected.tokens)  # type: ignore[arg-type]
        short = VideoPixels(pixels.pixels[-1:, :2], pixels.mask[-1:, :2], pixels.seconds[-1:, :2])
        torch.testing.assert_close(model.encode_pixels(short).frames, expected.frames[-1:, :2], atol=1e-4, rtol=1e-4)
        one = model.encode_pixels(VideoPixels(pixels.pixels[:1, :1], pixels.mask[:1, :1], pixels.seconds[:1, :1]))
        assert one.frames.shape == (1, 1, 128) and one.frames.isfinite().all()
        back = model.encode_pixels(pixels[torch.tensor([2, 0])])
        torch.testing.assert_close(back.frames, expected.frames[torch.tensor([2, 0])], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "name", "options"),
    [c for c in sampled(*SAMPLED) if components("tuning")[c.values[1]].walks or c.values[1] == "full"],
)
def test_running_blocks_again_gives_the_same_gradients(
    side: str, name: str, options: dict[str, Any], clips: list[Clip], pixels: VideoPixels
) -> None:
    plain = disturbed(tuned(side, name, options))
    assert plain.backbone is not None
    tokens = plain.backbone.tokenize([clip.captions[0] for clip in clips])
    again = copy.deepcopy(plain)
    for tuning in (*again.image_tuning, *again.text_tuning):
        tuning.tower.module.transformer.grad_checkpointing = False
    checkpoint_blocks(again)
    for model in (plain, again):
        loss_of(model, pixels, tokens).backward()
    theirs = dict(again.named_parameters())
    for own, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(theirs[own].grad, parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "name", "options"),
    sampled("image-st_adapter-0"),
)
def test_mixed_precision(side: str, name: str, options: dict[str, Any], clips: list[Clip], pixels: VideoPixels) -> None:
    """Under autocast the logits are those of single precision up to bfloat16, and gradients are finite."""
    model = disturbed(tuned(side, name, options, **PARTS.get(name, {})))
    assert model.backbone is not None
    tokens = model.backbone.tokenize([clip.captions[0] for clip in clips])
    with torch.no_grad():
        expected = model(tokens, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens, pixels)
        loss = loss_of(model, pixels, tokens)
    scale = model.logit_scale.exp().item()
    assert (found.float() - expected).abs().mean() < 0.03 * scale
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["aim", "cross_frame", "evl", "patch3d", "st_adapter", "stan", "ted_adapter", "token_shift"]
)
def test_frames_communicate(name: str, pixels: VideoPixels) -> None:
    """Changing a clip's third frame changes what its second one becomes."""
    model = disturbed(tuned("image", name, OPTIONS.get(name, [{}])[0]))
    changed = VideoPixels(pixels.pixels.clone(), pixels.mask, pixels.seconds)
    changed.pixels[0, 2] = 255 - changed.pixels[0, 2]
    with torch.no_grad():
        difference = (model.encode_pixels(changed).frames - model.encode_pixels(pixels).frames).abs().amax(-1)
    assert difference[0, 1] > 1e-5 and difference[1:].max() == 0


def test_a_walk_without_tunings_is_the_tower(clips: list[Clip], pixels: VideoPixels, tiny: Any) -> None:
    """Bit for bit: an adapter at its idle start computes what the store holds."""
    model = tuned("image", "st_adapter", {"hidden": 8}).eval()
    texts = tuned("text", "bottleneck", {"hidden": 8}, similarity="tokens").eval()
    sentences = [clip.captions[0] for clip in clips]
    with torch.no_grad():
        assert torch.equal(model.encode_pixels(pixels).frames[0], tiny.encode_image(pixels.pixels[0]))
        walked, plain = texts.encode_text(sentences), tiny.encode_text(tiny.tokenize(sentences), words=True)
    assert torch.equal(walked.sentence, plain.sentence) and torch.equal(walked.mask, plain.mask)
    torch.testing.assert_close(walked.words, plain.words)


def test_several_tunings_of_one_tower() -> None:
    model = create_model("tiny", image_tuning=["full", {"name": "stan", "depth": 1}, "token_shift"])  # type: ignore[list-item]
    names = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert {"backbone", "image_tuning", "logit_scale"} == names
    assert any(n.startswith("backbone.") for n in model.trained())


def test_long_captions_keep_their_end(tiny: Any) -> None:
    """Prompts take places of the context, a caption that fills it is cut before its end token."""
    words = " ".join(["circle"] * 40)
    for name, options in (("vop_text", {"prefix": 3, "suffix": 3}), ("vifi", {"tokens": 5})):
        model = disturbed(tuned("text", name, options))
        ids = model.get_submodule("text_tuning.0").ids(tiny.tokenize([words, "a circle"]))  # type: ignore[operator]
        assert ids.shape[1] < 32 and ids[0, -1] == ids.max() and (ids[1] == ids.max()).sum() == 1
        with torch.no_grad():
            assert model.encode_text([words, "a circle"]).sentence.isfinite().all()


def test_vifi_starts_from_words(tiny: Any) -> None:
    tuning = tuned("text", "vifi", {"words": "a circle"}).get_submodule("text_tuning.0")
    ids = tiny.tokenize(["a circle"])[0]
    inner = ids[1 : int(ids.argmax())]
    assert torch.equal(tuning.prompts[0], tiny.text_tower.token_embedding.weight[inner])  # type: ignore[union-attr, index]


def test_a_tower_that_cannot_take_one_says_what_it_needs(tmp_path: Path) -> None:
    from videoclip.backbone.openclip import OpenClip

    resnet = OpenClip("RN50", random_weights=True)
    with pytest.raises(BackboneError, match=r"RN50: STAdapter needs a CLIP vision transformer"):
        create_model(resnet, image_tuning="st_adapter")
    with pytest.raises(ConfigError, match="Stan tunes the image tower, not the text"):
        create_model("tiny", text_tuning="stan")
    with pytest.raises(ConfigError, match="99 blocks were asked for, the tower has 4"):
        create_model("tiny", image_tuning=Component(name="st_adapter", options={"blocks": 99}))
    with pytest.raises(ConfigError, match="STAdapter cannot be folded into a tower's own weights"):
        merge(create_model("tiny", image_tuning="st_adapter"), tmp_path)
    assert create_backbone("tiny")  # is whole after all that
