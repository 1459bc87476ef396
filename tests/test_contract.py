"""The contract that every registered temporal encoder and similarity obeys; new ones are picked up by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.registry import components, create
from videoclip.similarity import Similarity, matched
from videoclip.temporal import TemporalEncoder

WIDTH = 64
TEMPORAL = [
    *[(name, {}) for name in components("temporal")],
    ("transformer", {"layers": 1, "heads": 4}),
    ("difference", {"projection": "mlp"}),
    ("difference", {"projection": "plain", "layers": 1}),
    ("difference", {"coarse": "difference", "layers": 1}),
    ("difference", {"coarse": "frames", "layers": 1}),
    ("transformer", {"layers": 1, "max_positions": 3}),
    ("integration", {"max_positions": 2}),
    ("context", {"radius": 1, "heads": 2}),
]
SIMILARITY = [
    *[(name, {}) for name in components("similarity")],
    ("mean", {"normalize_frames": False}),
    ("query_scoring", {"temperature": 0.01}),
    ("query_scoring", {"normalize_frames": True}),
    ("top_k", {"k": 2}),
    ("tokens", {"weights": "uniform", "decorrelation": 0.1}),
    ("tokens", {"layers": 1}),
    ("mutual", {"form": "full"}),
    ("mutual", {"form": "sentence"}),
    ("attention", {"heads": 4}),
    ("cross", {"layers": 1, "max_positions": 3}),
    ("alignment", {"mean_weight": 0.0}),
    ("multigrained", {"max_words": 4, "max_frames": 3}),
]
ids = [f"{name}-{options}" if options else name for name, options in TEMPORAL]
similarity_ids = [f"{name}-{options}" if options else name for name, options in SIMILARITY]
every_temporal = pytest.mark.parametrize(("name", "options"), TEMPORAL, ids=ids)
every_similarity = pytest.mark.parametrize(("name", "options"), SIMILARITY, ids=similarity_ids)
# Whatever survives NaN survives other values; bfloat16 is the coarsest.
garbage_values = pytest.mark.parametrize(
    "garbage", [float("nan"), *(pytest.param(value, marks=pytest.mark.slow) for value in (1e4, float("inf")))]
)
every_dtype = pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float16, torch.float32))],
)

MASKS = {
    "prefix": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]],
    "holes": [[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
}


@pytest.fixture(params=MASKS)
def video(request: pytest.FixtureRequest) -> VideoFeatures:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(4, 5, WIDTH, generator=generator) * 3
    return VideoFeatures.from_frames(frames, torch.tensor(MASKS[request.param], dtype=torch.bool))


@pytest.fixture
def text() -> TextFeatures:
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    return TextFeatures(torch.randn(3, WIDTH, generator=generator), torch.randn(3, 7, WIDTH, generator=generator), mask)


def encoder(name: str, options: dict[str, object]) -> TemporalEncoder:
    torch.manual_seed(0)
    module: TemporalEncoder = create("temporal", name, options, width=WIDTH)
    for parameter in module.parameters():  # initial values near zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.15)
    return module.eval()


def similarity(name: str, options: dict[str, object]) -> Similarity:
    torch.manual_seed(0)
    module: Similarity = create("similarity", name, options, width=WIDTH)
    for parameter in module.parameters():  # near where they start, which is the identity for some
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


def with_garbage(video: VideoFeatures, value: float) -> VideoFeatures:
    return video.map(lambda x: torch.where(video.mask[..., None], x, torch.tensor(value)) if x.ndim == 3 else x)


def text_with_garbage(text: TextFeatures, value: float) -> TextFeatures:
    assert text.words is not None and text.mask is not None
    return TextFeatures(text.sentence, torch.where(text.mask[..., None], text.words, torch.tensor(value)), text.mask)


def real(video: VideoFeatures) -> Tensor:
    return video.frames[video.mask]


def test_the_registry_is_not_empty() -> None:
    temporal = {"none", "lstm", "transformer", "difference", "conv", "class_token", "context", "integration", "aligner"}
    assert temporal <= set(components("temporal"))
    words = {"tokens", "mutual", "multigrained", "alignment"}
    assert words | {"mean", "query_scoring", "max_frame", "top_k", "attention", "cross", "semantic"} <= set(
        components("similarity")
    )
    assert words == {name for name in components("similarity") if similarity(name, {}).needs_words}
    assert {"none", "full"} <= set(components("tuning"))


@every_temporal
@garbage_values
def test_padding_changes_nothing(name: str, options: dict[str, object], video: VideoFeatures, garbage: float) -> None:
    module = encoder(name, options)
    clean, dirty = module(with_garbage(video, 0)), module(with_garbage(video, garbage))
    assert torch.equal(clean.frames, dirty.frames)
    assert not dirty.frames[~video.mask].any()
    if dirty.coarse is not None:
        assert torch.equal(clean.coarse, dirty.coarse) and not dirty.coarse[~video.mask[:, ::2]].any()


@every_temporal
def test_a_clip_does_not_depend_on_its_neighbours(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    module = encoder(name, options)
    together = module(video)
    for index in range(len(video)):
        alone = module(video[index : index + 1])
        torch.testing.assert_close(alone.frames[0], together.frames[index], atol=2e-5, rtol=1e-4)


@every_temporal
def test_longer_padding_changes_nothing(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    module = encoder(name, options)
    longer = VideoFeatures.from_frames(
        torch.nn.functional.pad(video.frames, (0, 0, 0, 4)), torch.nn.functional.pad(video.mask, (0, 4))
    )
    torch.testing.assert_close(real(module(longer)), real(module(video)), atol=2e-5, rtol=1e-4)


@every_temporal
def test_one_frame_works(name: str, options: dict[str, object]) -> None:
    frames = torch.randn(2, 1, WIDTH)
    assert encoder(name, options)(VideoFeatures.from_frames(frames)).frames.shape == frames.shape


@every_temporal
@every_dtype
def test_dtype_in_is_dtype_out(name: str, options: dict[str, object], video: VideoFeatures, dtype: torch.dtype) -> None:
    module = encoder(name, options)
    exact = real(module(video))
    for converted in (module, encoder(name, options).to(dtype)):
        result = real(converted(video.to(dtype)))
        assert result.dtype == dtype
        assert torch.nn.functional.cosine_similarity(result.float(), exact, dim=-1).min() > 0.99


@every_temporal
def test_gradients_are_finite(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    module = encoder(name, options).train()
    frames = video.frames.clone().requires_grad_(True)
    result = module(VideoFeatures(frames, video.mask, video.seconds, frames))
    loss = result.frames.square().sum() + (0 if result.coarse is None else result.coarse.square().sum())
    own = module.auxiliary_loss(TextFeatures(torch.randn(4, WIDTH)), result)
    (loss if own is None else loss + own).backward()
    assert frames.grad is not None and frames.grad.isfinite().all() and not frames.grad[~video.mask].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_temporal
def test_the_own_loss_ignores_padding(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    module, text = encoder(name, options), TextFeatures(torch.randn(4, WIDTH))
    losses = [module.auxiliary_loss(text, module(with_garbage(video, value))) for value in (0.0, float("nan"))]
    assert losses[0] is losses[1] is None or torch.equal(losses[0], losses[1])


@every_temporal
def test_save_load_equal(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    module, other = encoder(name, options), create("temporal", name, options, width=WIDTH).eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(video).frames, other(video).frames)


@every_temporal
def test_source_and_times_are_kept(name: str, options: dict[str, object], video: VideoFeatures) -> None:
    result = encoder(name, options)(video)
    assert torch.equal(result.source, video.frames) and torch.equal(result.seconds, video.seconds)
    assert torch.equal(result.mask, video.mask)


@pytest.mark.parametrize("name", sorted(set(components("temporal")) - {"none"}))
def test_order_matters_to_temporal_encoders(name: str) -> None:
    frames = torch.randn(1, 5, WIDTH)
    module = encoder(name, {})
    forward, backward = (module(VideoFeatures.from_frames(f)).frames for f in (frames, frames.flip(1)))
    assert not torch.allclose(forward.mean(1), backward.mean(1), atol=2e-5, rtol=0)


@every_similarity
@garbage_values
def test_padding_changes_no_score(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures, garbage: float
) -> None:
    module = similarity(name, options)
    clean = text_with_garbage(text, 0), with_garbage(video, 0)
    dirty = text_with_garbage(text, garbage), with_garbage(video, garbage)
    assert torch.equal(module(*clean), module(*dirty))


@every_similarity
def test_longer_padding_changes_no_score(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    assert text.words is not None and text.mask is not None
    pad = torch.nn.functional.pad
    longer = VideoFeatures.from_frames(pad(video.frames, (0, 0, 0, 4)), pad(video.mask, (0, 4)))
    more = TextFeatures(text.sentence, pad(text.words, (0, 0, 0, 3)), pad(text.mask, (0, 3)))
    module = similarity(name, options)
    torch.testing.assert_close(module(more, longer), module(text, video), atol=1e-5, rtol=1e-4)


@every_similarity
def test_queries_and_videos_are_independent(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    module = similarity(name, options)
    together = module(text, video)
    for q in range(len(text)):
        for b in range(len(video)):
            alone = module(text[q : q + 1], video[b : b + 1])
            torch.testing.assert_close(alone[0, 0], together[q, b], atol=1e-5, rtol=1e-4)


@every_similarity
@every_dtype
def test_similarity_dtype(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures, dtype: torch.dtype
) -> None:
    module = similarity(name, options)
    exact = module(text, video)
    for converted in (module, similarity(name, options).to(dtype)):
        result = converted(text.to(dtype), video.to(dtype))
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), exact, atol=0.05 * max(1.0, exact.abs().max().item()), rtol=0)


@every_similarity
def test_scores_are_bounded_and_gradients_finite(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    module = similarity(name, options).train()
    frames = video.frames.clone().requires_grad_(True)
    seen = VideoFeatures(frames, video.mask, video.seconds, frames)
    terms = module.terms(*module.prepared(text, seen))
    assert all(scores.shape == (3, 4) for _, scores in terms)
    if module.scale_logits and name not in ("multigrained", "cross"):  # learned matrices may stretch its cosines
        assert all(scores.abs().max() <= 1 + 1e-5 for _, scores in terms)
    own = module.auxiliary_loss(*module.prepared(text, seen[:3]))
    loss = sum(scores.square().sum() for _, scores in terms) + (0 if own is None else own)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert frames.grad is not None and frames.grad.isfinite().all() and not frames.grad[~video.mask].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_similarity
def test_terms_add_up_to_the_score(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    module = similarity(name, options)
    terms = module.terms(*module.prepared(text, video))
    assert sum(weight for weight, _ in terms) == pytest.approx(1)
    torch.testing.assert_close(sum(weight * scores for weight, scores in terms), module(text, video))
    pairs = matched(module, text, video[:3], group=2)
    for (_, scores), own in zip(terms, pairs, strict=True):
        torch.testing.assert_close(own, scores[:, :3].diagonal(), atol=1e-5, rtol=1e-4)


@every_similarity
def test_chunked_equals_whole(name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures) -> None:
    """Values and gradients, a pair at a time and all at once."""
    found = []
    for mib in (1e-6, 512):
        module = similarity(name, options)
        module.memory_mib = mib
        frames = video.frames.clone().requires_grad_(True)
        scores = module(text, VideoFeatures(frames, video.mask, video.seconds, frames))
        scores.square().sum().backward()
        assert frames.grad is not None
        with torch.no_grad():
            torch.testing.assert_close(module(text, video), scores.detach(), atol=1e-5, rtol=1e-4)
        found.append((scores.detach(), frames.grad, *(p.grad for p in module.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@every_similarity
def test_similarity_save_load_and_one_frame(name: str, options: dict[str, object], text: TextFeatures) -> None:
    module, other = similarity(name, options), create("similarity", name, options, width=WIDTH).eval()
    other.load_state_dict(module.state_dict())
    video = VideoFeatures.from_frames(torch.randn(2, 1, WIDTH))
    assert torch.equal(module(text, video), other(text, video))
    if not module.needs_words and not list(module.parameters()):
        cosine = torch.nn.functional.cosine_similarity(text.sentence[:, None], video.frames[None, :, 0], dim=-1)
        torch.testing.assert_close(module(text, video), cosine, atol=1e-5, rtol=1e-4)


@every_similarity
def test_pool_agrees_with_scores_where_it_exists(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    module = similarity(name, options)
    try:
        pooled = module.pool(video)
    except NotImplementedError:
        assert name not in ("mean",)
        return
    scores = torch.nn.functional.normalize(text.sentence, dim=-1) @ pooled.T
    torch.testing.assert_close(scores, module(text, video), atol=1e-5, rtol=1e-4)


@every_similarity
def test_frame_weights_sum_to_one(
    name: str, options: dict[str, object], video: VideoFeatures, text: TextFeatures
) -> None:
    module = similarity(name, options)
    try:
        weights = module.frame_weights(text, with_garbage(video, float("nan")))
    except NotImplementedError:
        return
    assert not weights[:, ~video.mask].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))


@every_similarity
def test_a_clip_without_frames_or_words_gives_finite_scores(
    name: str, options: dict[str, object], text: TextFeatures
) -> None:
    assert text.words is not None and text.mask is not None
    empty = VideoFeatures.from_frames(torch.randn(2, 4, WIDTH), torch.zeros(2, 4, dtype=torch.bool))
    wordless = TextFeatures(text.sentence, text.words, torch.zeros_like(text.mask))
    assert similarity(name, options)(wordless, empty).isfinite().all()


@pytest.mark.parametrize("temperature", [0.02, 0.1, 5.0])
def test_query_scoring_equals_the_naive_form(temperature: float, video: VideoFeatures, text: TextFeatures) -> None:
    """The Gram form against weighted sums written out in float64."""
    mine = similarity("query_scoring", {"temperature": temperature})(text, video)
    for q, sentence in enumerate(text.sentence.double()):
        for b in range(len(video)):
            frames = video.frames[b][video.mask[b]].double()
            cosine = torch.nn.functional.cosine_similarity(sentence[None], frames, dim=-1)
            pooled = (torch.softmax(cosine / temperature, 0)[:, None] * frames).sum(0)
            expected = torch.nn.functional.cosine_similarity(sentence, pooled, dim=0)
            assert mine[q, b].item() == pytest.approx(expected.item(), abs=2e-6)
