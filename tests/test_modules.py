"""What the contract cannot know of single modules: naive forms in double precision, initial values, positions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.backbone.openclip import OpenClip
from videoclip.config import Component, load_config
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import Positions
from videoclip.model import build_head, create_model
from videoclip.registry import create
from videoclip.similarity import Similarity
from videoclip.temporal import TemporalEncoder

WIDTH = 32
CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "model").glob("*.yaml"))


def features() -> tuple[TextFeatures, VideoFeatures]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    words = torch.randn(3, 6, WIDTH, generator=generator, dtype=torch.float64)
    text = TextFeatures(torch.randn(3, WIDTH, generator=generator, dtype=torch.float64), words, mask)
    frames = torch.randn(4, 5, WIDTH, generator=generator, dtype=torch.float64)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]])
    return text, VideoFeatures.from_frames(frames, real)


def made(name: str, **options: object) -> Similarity:
    torch.manual_seed(0)
    module: Similarity = create("similarity", name, options, width=WIDTH).double()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


@torch.no_grad()
def by_pair(score: object) -> Tensor:
    """Scores one by one, from the real words (l, D) and real frames (t, D) of a pair alone."""
    text, video = features()
    assert text.words is not None and text.mask is not None
    return torch.tensor(
        [
            [float(score(s, w[m], f[r])) for f, r in zip(video.frames, video.mask, strict=True)]  # type: ignore[operator]
            for s, w, m in zip(text.sentence, text.words, text.mask, strict=True)
        ],
        dtype=torch.float64,
    )


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def close(module: Similarity, score: object) -> None:
    torch.testing.assert_close(module(*features()), by_pair(score), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_closed_form_of_attention_is_the_direct_one(heads: int) -> None:
    module = made("attention", heads=heads)
    text, video = module.prepared(*features())
    direct = F.cosine_similarity(
        text.sentence[:, None], module.pool_by_text(text.sentence, video.frames, video.mask), dim=-1
    )
    torch.testing.assert_close(module(text, video), direct, atol=1e-10, rtol=1e-10)


def test_dropout_takes_the_direct_form() -> None:
    module = made("attention", dropout=0.5).train()
    text, video = features()
    torch.manual_seed(1)
    first = module(text, video)
    assert not torch.allclose(first, module(text, video))
    module.dropout.p = 1e-12  # drops nothing, and still goes the way of training
    torch.testing.assert_close(module(text, video), module.eval()(text, video), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_top_k_is_the_mean_of_the_nearest(k: int) -> None:
    def score(sentence: Tensor, words: Tensor, frames: Tensor) -> Tensor:
        near = (unit(frames) @ unit(sentence)).topk(min(k, len(frames))).indices
        return F.cosine_similarity(sentence, unit(frames)[near].mean(0), dim=0)

    close(made("top_k", k=k), score)


def test_tokens_by_loops() -> None:
    module = made("tokens")

    def score(sentence: Tensor, words: Tensor, frames: Tensor) -> Tensor:
        cosine = unit(words) @ unit(frames).T
        of_words = torch.softmax(module.text_weights(words)[:, 0], 0) @ cosine.max(1).values
        return (of_words + torch.softmax(module.video_weights(frames)[:, 0], 0) @ cosine.max(0).values) / 2

    close(module, score)


@pytest.mark.parametrize("form", ["simple", "full"])
def test_mutual_by_loops(form: str) -> None:
    def score(sentence: Tensor, words: Tensor, frames: Tensor) -> Tensor:
        cosine = unit(words) @ unit(frames).T
        of_words = torch.stack([(torch.softmax(100 * row, 0) * row).sum() for row in cosine])
        of_frames = torch.stack([(torch.softmax(100 * row, 0) * row).sum() for row in cosine.T])
        word_share, frame_share = torch.softmax(100 * of_words, 0), torch.softmax(100 * of_frames, 0)
        if form == "full":
            return (word_share @ unit(words)) @ (frame_share @ unit(frames))
        return (word_share @ of_words + frame_share @ of_frames) / 2

    close(made("mutual", form=form), score)


def test_multigrained_by_loops() -> None:
    module = made("multigrained", max_words=6, max_frames=5)

    def attend(values: Tensor, matrix: Tensor) -> Tensor:
        weights = torch.softmax(values / 0.01, 0) @ matrix[: len(values), : len(values)]
        return weights @ values

    def score(sentence: Tensor, words: Tensor, frames: Tensor) -> Tensor:
        s, w, f = unit(sentence), unit(words), unit(frames)
        video = unit(f.mean(0))
        cosine = w @ module.part @ f.T
        of_frames = torch.stack([attend(column, module.words_first) for column in cosine.T])
        of_words = torch.stack([attend(row, module.frames_first) for row in cosine])
        fine = (attend(of_frames, module.frames_last) + attend(of_words, module.words_last)) / 2
        return (s @ module.whole @ video + attend(w @ video, module.words) + attend(f @ s, module.frames) + fine) / 4

    text, video = features()
    video = video[:3]  # a gap in a clip keeps the places of the frames behind it, which the loop here does not
    expected = by_pair(score)[:, :3]
    torch.testing.assert_close(module(text, video), expected, atol=1e-9, rtol=1e-9)


def test_words_are_asked_for_where_they_are_missing() -> None:
    text, video = features()
    with pytest.raises(ValueError, match="words=True"):
        made("tokens")(TextFeatures(text.sentence), video)


def test_positions_stretch_over_longer_clips_alone() -> None:
    table = Positions(4, 2)
    table.weight.data = torch.arange(4.0)[:, None].expand(4, 2).clone()
    short = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(table(short)[0], table.weight)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    long, padded = table(mask)
    assert long[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert padded[:3, 0].tolist() == [0, 1, 2]


def test_the_text_tower_gives_the_initial_values(tiny: OpenClip) -> None:
    text = tiny.text_tower.state_dict()
    four = create_model(tiny, temporal="transformer").temporal
    assert torch.equal(four.positions.weight[:32], text["positional_embedding"])
    for index in range(3):
        for name, tensor in four.transformer.blocks[index].state_dict().items():
            assert torch.equal(tensor, text[f"transformer.resblocks.{index}.{name}"]), name
    assert four.transformer.blocks[3].ln_1.weight.eq(1).all()  # the tiny tower has three blocks
    random = create_model(tiny, temporal=Component(name="transformer", options={"start": "random"})).temporal
    assert not torch.equal(random.positions.weight[:32], text["positional_embedding"])
    difference = create_model(tiny, temporal=Component(name="difference", options={"coarse": "difference"})).temporal
    assert torch.equal(difference.types.weight, text["positional_embedding"][:2])
    first = text["transformer.resblocks.0.mlp.c_fc.weight"]
    for part in (difference.transformer, difference.difference_transformer, difference.coarse_transformer):
        assert torch.equal(part.blocks[0].mlp.c_fc.weight, first)
    linear = create_model(tiny, temporal=Component(name="difference", options={"projection": "mlp"})).temporal
    assert torch.equal(linear.difference_linear.weight, tiny.image_tower.proj[:128].T)
    cross = create_model(tiny, similarity="cross").similarity
    assert torch.equal(cross.transformer.blocks[2].mlp.c_fc.weight, text["transformer.resblocks.2.mlp.c_fc.weight"])


def test_a_tower_of_another_width_gives_none(tiny: OpenClip) -> None:
    torch.manual_seed(0)
    module: TemporalEncoder = create("temporal", "transformer", width=64)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.start_from(tiny.text_tower.state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_the_convolution_starts_as_a_shift_between_real_frames() -> None:
    module: TemporalEncoder = create("temporal", "conv", width=8)
    frames = torch.randn(1, 4, 8)
    mask = torch.tensor([[True, False, True, True]])
    mixed = module(VideoFeatures.from_frames(frames, mask)).frames[0]
    a, b, c = frames[0, 0], frames[0, 2], frames[0, 3]
    expected = [(torch.zeros(8), a, b), (a, b, c), (b, c, torch.zeros(8))]
    for place, (before, own, after) in zip((0, 2, 3), expected, strict=True):
        shifted = torch.cat([before[:2], own[2:6], after[6:]])
        torch.testing.assert_close(mixed[place], frames[0, place] + shifted)


def test_context_reads_the_middle_clip() -> None:
    torch.manual_seed(0)
    module: TemporalEncoder = create("temporal", "context", {"radius": 2, "heads": 4}, width=WIDTH).eval()
    clips = torch.randn(1, 5, WIDTH)
    read = module.read(clips, torch.ones(1, 5, dtype=torch.bool))
    encoded = module(VideoFeatures.from_frames(clips)).frames
    assert all(torch.equal(encoded[0, t], read[0, 2]) for t in range(5))


def test_tem_adapter_chooses_an_answer() -> None:
    torch.manual_seed(0)
    module = create("similarity", "semantic", {"hidden": 32, "heads": 4}, width=WIDTH).eval()
    torch.nn.init.normal_(module.gamma)
    _, video = features()
    video = video.to(torch.float32)
    candidates = torch.randn(4, 3, WIDTH)
    chosen = module.choose(candidates, video)
    scores = torch.stack([module(TextFeatures(c), video[b : b + 1])[:, 0] for b, c in enumerate(candidates)])
    torch.testing.assert_close(chosen, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.stem)
def test_headers_state_the_trained_parameters(config: Path) -> None:
    text = config.read_text()
    for word in ("arXiv:", "accelerate launch tools/train.py", "Differs:", "Paper:"):
        assert word in text.split("model:")[0], word
    assert f"configs/model/{config.name}" in text
    said = re.search(r"Trained: ([\d,]+) parameter", text)
    assert said is not None
    model = load_config(config, ["data.manifest=m", "data.store=s"]).model
    temporal, similarity = build_head(model, 512)
    count = sum(p.numel() for part in (temporal, similarity) for p in part.parameters())
    assert int(said[1].replace(",", "")) == count + similarity.scale_logits


def test_every_system_has_its_config() -> None:
    assert len(CONFIGS) == 19
