"""Every component under every precision of mixed training, also on a machine that lacks a recurrent kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from videoclip import layers
from videoclip.backbone.openclip import OpenClip
from videoclip.backbone.walk import Tower
from videoclip.classifier.parts.prompts import PromptTower
from videoclip.classifier.pre import Pre
from videoclip.config import Component
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels
from videoclip.layers import has_kernel, recur
from videoclip.loss import Pairs
from videoclip.model import create_model
from videoclip.registry import components, create

REDUCED = (torch.bfloat16, torch.float16)
WIDTH = 64
NETWORKS = (nn.LSTM, nn.GRU, nn.RNN)

# Reduced precisions are emulated on most processors: small modules, and the towers in bfloat16 alone.
SMALL: dict[str, dict[str, Any]] = {
    "aligner": {"feedforward": 64},
    "class_token": {"layers": 1, "feedforward": 64},
    "context": {"layers": 1, "feedforward": 64},
    "evl": {"layers": 2},
    "stan": {"depth": 1, "time": "convolution"},
    "vop": {"tokens": 4, "special": "context"},
}

every_precision = pytest.mark.parametrize("dtype", REDUCED, ids=["bf16", "fp16"])


@pytest.fixture(params=[False, True], ids=["this machine", "no kernel"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine as it is, and one whose recurrent networks refuse every reduced precision."""
    if request.param:
        monkeypatch.setattr(layers, "has_kernel", lambda *asked: False)
        monkeypatch.setattr(nn.LSTM, "forward", refusing(nn.LSTM.forward))


def refusing(forward: Any) -> Any:
    """Return ``forward`` of a machine that has kernels for float32 alone."""

    def run(network: nn.LSTM, steps: Any, *more: Any) -> Any:
        reduced = steps.data.dtype in REDUCED or next(network.parameters()).dtype in REDUCED
        if reduced or torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
        return forward(network, steps, *more)

    return run


def video(count: int = 3) -> VideoFeatures:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(count, 5, WIDTH, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:count, None]
    return VideoFeatures.from_frames(frames, mask)


def text(count: int = 3) -> TextFeatures:
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(7) < torch.tensor([7, 4, 2])[:count, None]
    sentence = torch.randn(count, WIDTH, generator=generator)
    return TextFeatures(sentence, torch.randn(count, 7, WIDTH, generator=generator), mask)


def finite(module: nn.Module) -> bool:
    found = [p.grad for p in module.parameters() if p.grad is not None]
    return bool(found) and all(bool(gradient.isfinite().all()) for gradient in found)


@every_precision
@pytest.mark.parametrize("name", sorted(set(components("temporal")) - {"none"}))
def test_temporal_encoders(name: str, dtype: torch.dtype, machine: None) -> None:
    module = create("temporal", name, SMALL.get(name, {}), width=WIDTH)
    with torch.autocast("cpu", dtype):
        encoded = module(video())
        own = module.auxiliary_loss(text(), encoded)
        loss = encoded.frames.square().mean() + (0 if own is None else own)
    loss.backward()
    assert encoded.frames.dtype == torch.float32
    assert encoded.frames.isfinite().all()
    assert finite(module)


@every_precision
@pytest.mark.parametrize("name", sorted(components("similarity")))
def test_similarities(name: str, dtype: torch.dtype) -> None:
    module = create("similarity", name, {}, width=WIDTH)
    frames = video().frames.requires_grad_(True)
    with torch.autocast("cpu", dtype):
        words, seen = module.prepared(text(), VideoFeatures.from_frames(frames, video().mask))
        own = module.auxiliary_loss(words, seen)
        loss = sum(scores.mean() for _, scores in module.terms(words, seen)) + (0 if own is None else own)
    loss.backward()
    assert loss.isfinite()
    assert frames.grad is not None and frames.grad.isfinite().all()


@every_precision
@pytest.mark.parametrize("name", sorted(components("loss")))
def test_losses(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(4, 4, requires_grad=True)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = True
    with torch.autocast("cpu", dtype):
        loss = create("loss", name, {})(Pairs.of(100 * logits.to(dtype), same, False, 100.0))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()


# Those with convolutions or recurrent networks; the others compute as the towers do.
@pytest.mark.parametrize(
    "name",
    [
        "st_adapter",
        "vop",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("evl", "patch3d", "stan", "ted_adapter")),
    ],
)
def test_tunings(name: str) -> None:
    check_tuning(name)


def test_a_recurrent_tuning_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "has_kernel", lambda *asked: False)
    monkeypatch.setattr(nn.LSTM, "forward", refusing(nn.LSTM.forward))
    check_tuning("vop")


def check_tuning(name: str) -> None:
    """Train a step of a model with a tuning in its image tower."""
    tuning = Component(name=name, options=SMALL.get(name, {}))
    model = create_model("tiny", image_tuning=tuning, frames=2)
    assert model.backbone is not None
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    clips = VideoPixels.pad(list(pixels), [torch.arange(2.0)])
    tokens = model.backbone.tokenize(["a red circle grows", "a blue ring falls"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, clips).square().mean()
    loss.backward()
    assert loss.isfinite()
    assert finite(model)


@every_precision
def test_prompts_through_a_recurrent_network(dtype: torch.dtype, tiny: OpenClip, machine: None) -> None:
    method = Pre()
    parameters = method.initial(PromptTower(Tower("text", tiny.text_tower, "tiny", tiny.tokenize)), 2)
    exact = method.vectors(parameters).detach()
    with torch.autocast("cpu", dtype):
        vectors = method.vectors(parameters)
    vectors.square().sum().backward()
    torch.testing.assert_close(vectors, exact, atol=0.02, rtol=0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())


@every_precision
@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "cast"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("there", [False, True], ids=["no kernel", "asked"])
def test_outputs_have_the_dtype_of_the_inputs(
    network: type[nn.RNNBase], whole: bool, dtype: torch.dtype, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not there:
        monkeypatch.setattr(layers, "has_kernel", lambda *asked: False)
    module, steps = network(8, 8, batch_first=True), torch.randn(2, 3, 8)
    exact: Tensor = module(steps)[0].detach()
    if whole:
        module, steps = module.to(dtype), steps.to(dtype)
    with torch.autocast("cpu", dtype, enabled=not whole):
        found = recur(module, steps)
    found.float().sum().backward()
    assert found.dtype == steps.dtype
    assert finite(module)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0)


def test_packed_steps_and_other_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "has_kernel", lambda *asked: False)
    network, steps = nn.LSTM(8, 4, batch_first=True, bidirectional=True), torch.randn(2, 3, 8)
    packed = pack_padded_sequence(steps, torch.tensor([3, 1]), batch_first=True)
    other = {name: 2 * parameter.detach() for name, parameter in network.named_parameters()}
    expected = functional_call(network, other, (packed,))[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = recur(network, packed, other)
    assert found.data.dtype == torch.float32
    torch.testing.assert_close(pad_packed_sequence(found)[0], pad_packed_sequence(expected)[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_asking_for_a_kernel_disturbs_nothing(network: type[nn.RNNBase]) -> None:
    """Neither the random numbers of a training nor the answer, which must not depend on where it was asked."""
    asked = (network, "cpu", torch.bfloat16, True)
    plain = has_kernel.__wrapped__(*asked)
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        within = has_kernel.__wrapped__(*asked)
    assert torch.equal(torch.get_rng_state(), before)
    assert plain == within
    try:
        with torch.autocast("cpu", torch.bfloat16):
            network(8, 8, batch_first=True)(torch.randn(1, 2, 8))[0].sum().backward()
    except RuntimeError:
        assert not plain
    else:
        assert plain
