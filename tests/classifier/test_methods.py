"""What every classifier obeys, on features that hold classes and on the tiny CLIP's text tower; and what single ones do."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from videoclip.backbone.openclip import OpenClip
from videoclip.backbone.walk import Tower
from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson, one_hot, right
from videoclip.classifier.ape import criterion
from videoclip.classifier.coop import Coop
from videoclip.classifier.eco import Eco
from videoclip.classifier.gda import Gda
from videoclip.classifier.multi_modal_adapter import _Block
from videoclip.classifier.parts.cache import divergence
from videoclip.classifier.parts.prompts import Layout, PromptTower
from videoclip.classifier.prograd import projected
from videoclip.classifier.proker import coefficients
from videoclip.classifier.tpt import entropy_of_mean, surest
from videoclip.classifier.x_more import confidence
from videoclip.errors import ConfigError, DataError
from videoclip.layers import unit
from videoclip.registry import components, create

NAMES = ("red circle", "blue square", "green ring", "pink star")
FRAMES, VIEWS = 5, 2
CHEAP: dict[str, dict[str, object]] = {
    "ape": {"beta_steps": 20, "alpha_steps": 5, "gamma_steps": 4},
    "tip_x": {"alpha_steps": 5, "beta_steps": 20, "gamma_steps": 5},
    "coop": {"epochs": 3, "context": 4},
    "eco": {"epochs": 3},
    "pre": {"epochs": 3},
    "prograd": {"epochs": 3},
    "cocoop": {"epochs": 1},
    "upl": {"epochs": 3, "runs": 2, "context": 4},
    "grip": {"epochs": 8, "rounds": 2, "context": 4},
    "temporal_encoder": {"epochs": 5},
    "multi_modal_adapter": {"epochs": 5},
}
METHODS = sorted(components("classifier"))


@pytest.fixture(scope="module")
def tower(tiny: OpenClip) -> PromptTower:
    return PromptTower(Tower("text", tiny.text_tower, "tiny", tiny.tokenize))


def clips_of(centres: Tensor, labels: Tensor, seed: int, noise: float = 0.5) -> Clips:
    """Clips around their class's centre, with further views and frames."""
    generator = torch.Generator().manual_seed(seed)

    def around(*shape: int) -> Tensor:
        return centres[labels] + noise * torch.randn(*shape, *centres[labels].shape, generator=generator)

    frames = around(FRAMES).transpose(0, 1)
    mask = torch.ones(len(labels), FRAMES, dtype=torch.bool)
    mask[0, 3:] = False
    return Clips(around(1)[0], labels, around(VIEWS), frames, mask, around(1, FRAMES).transpose(1, 2))


@pytest.fixture(scope="module")
def lesson(tower: PromptTower, tiny: OpenClip) -> Lesson:
    """Classes that the tower's own texts tell apart; clips around mixtures of a text and something else."""
    sentences = [[f"a {name}", f"a small {name}"] for name in NAMES]
    with torch.no_grad():
        encoded = tuple(tiny.encode_text(tiny.tokenize(texts)).sentence for texts in sentences)
        bank = tiny.encode_text(tiny.tokenize([f"a {s} {n} moves" for s in ("small", "large") for n in NAMES])).sentence
    texts = ClassTexts(NAMES, encoded, tower)
    centres = centres_of(texts)
    few, more = torch.arange(4).repeat_interleave(3), torch.arange(4).repeat(5)
    pool = clips_of(centres, torch.arange(4).repeat(8), 3).without_labels()
    return Lesson(texts, 20.0, clips_of(centres, few, 1), clips_of(centres, more, 2), pool, bank, seed=5)


def centres_of(texts: ClassTexts) -> Tensor:
    shift = torch.randn(len(texts), texts.weights.shape[1], generator=torch.Generator().manual_seed(0))
    return 5 * unit(unit(texts.weights - texts.weights.mean(0)) + 0.5 * unit(shift))


@pytest.fixture(scope="module")
def test_clips(lesson: Lesson) -> Clips:
    return clips_of(centres_of(lesson.texts), torch.arange(4).repeat(6), 4)


def fitted(name: str, lesson: Lesson, **options: object) -> Classifier:
    classifier: Classifier = create("classifier", name, {**CHEAP.get(name, {}), **options})
    classifier.fit(lesson)
    return classifier


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    """Name each method in turn."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def first(name: str, lesson: Lesson) -> Classifier:
    """Fit each method once, for the tests that leave it as it is."""
    before = torch.get_rng_state()
    classifier = fitted(name, lesson)
    assert torch.equal(before, torch.get_rng_state())
    return classifier


def test_contract(name: str, first: Classifier, lesson: Lesson, test_clips: Clips) -> None:
    """Right more often than by chance; blind to labels and neighbours; the same twice; leaves torch's seed alone."""
    second = fitted(name, lesson)
    with torch.no_grad():
        logits = first.logits(test_clips.without_labels())
        assert logits.shape == (24, 4) and logits.isfinite().all()
        torch.testing.assert_close(second.logits(test_clips), logits)
        some = torch.tensor([7, 2, 11])
        torch.testing.assert_close(first.logits(test_clips[some]), logits[some], atol=1e-4, rtol=1e-4)
    assert right(logits, test_clips.known) > 12
    assert all(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in first.tensors.values())
    if first.found is not None:
        assert set(first.found.values) <= set(first.tensors) and first.found.clips == len(lesson.validation or [])
    again: Classifier = create("classifier", name, CHEAP.get(name, {}))
    again.tensors, again.tower = {n: t.clone() for n, t in first.tensors.items()}, lesson.texts.tower
    with torch.no_grad():
        torch.testing.assert_close(again.logits(test_clips), logits)


def test_without_validation_defaults_stay(name: str, lesson: Lesson, test_clips: Clips) -> None:
    alone = Lesson(lesson.texts, lesson.scale, lesson.support, None, lesson.unlabelled, lesson.bank)
    classifier = fitted(name, alone)
    assert classifier.found is None or (classifier.found.accuracy is None and not classifier.found.grid)
    with torch.no_grad():
        assert classifier.logits(test_clips).isfinite().all()


def test_goes_on_to_new_classes_or_says_that_it_cannot(
    first: Classifier, lesson: Lesson, test_clips: Clips, tiny: OpenClip
) -> None:
    with torch.no_grad():
        sentences = tuple(tiny.encode_text(tiny.tokenize([f"a {n}"])).sentence for n in ("red star", "white ring"))
    texts = ClassTexts(("red star", "white ring"), sentences, lesson.texts.tower)
    try:
        other = first.transferred(texts)
    except DataError as error:
        assert "knows only the classes it was fitted on" in str(error)
        return
    with torch.no_grad():
        assert other.logits(test_clips).shape == (24, 2)
        assert first.logits(test_clips).shape == (24, 4)


def test_who_goes_on_to_new_classes() -> None:
    able = {n for n, c in components("classifier").items() if c.transferred is not Classifier.transferred}
    assert able == {
        *("clip_adapter", "cocoop", "coop", "eco", "gda", "multi_modal_adapter", "pre", "prograd", "text_matrix"),
        *("tpt", "x_more", "zero_shot"),
    }


def test_what_is_missing_is_told(name: str, lesson: Lesson) -> None:
    needs = components("classifier")[name].needs
    if "support" in needs:
        lonely = Lesson(lesson.texts, 20.0, (lesson.support or Clips(torch.zeros(0, 1)))[torch.arange(3)])
        with pytest.raises(DataError, match="3 of 4 classes have no labelled clip, the first is 'blue square'"):
            fitted(name, lonely)
    if needs & {"support", "unlabelled", "bank"}:
        with pytest.raises(DataError):
            fitted(name, Lesson(lesson.texts, 20.0))
    if "tower" in needs:
        texts = ClassTexts(NAMES, lesson.texts.sentences)
        with pytest.raises(DataError, match="text tower"):
            fitted(name, Lesson(texts, 20.0, lesson.support, None, lesson.unlabelled))


def test_prompts_read_as_the_text_that_they_are(tower: PromptTower, tiny: OpenClip) -> None:
    words = tower.words("a photo of a")
    layout = Layout.of(tower, NAMES, len(words))
    for position, texts in (
        ("end", [f"a photo of a {name}." for name in NAMES]),
        ("middle", [f"a photo {name} of a." for name in NAMES]),
        ("front", [f"{name} a photo of a." for name in NAMES]),
    ):
        if len(words) != 4 and position == "middle":
            continue  # a word of several tokens would be cut in two
        with torch.no_grad():
            mine = tower.encode(layout.filled(words, position), layout.tokens)  # type: ignore[arg-type]
            torch.testing.assert_close(mine, tiny.encode_text(tiny.tokenize(texts)).sentence, atol=1e-5, rtol=1e-5)


def test_a_name_that_does_not_fit_is_told(tower: PromptTower) -> None:
    with pytest.raises(DataError, match="take fewer context vectors or a shorter name"):
        Layout.of(tower, ["circle", "a very long name " * 4], 16)


def test_one_context_of_eco_is_coop(lesson: Lesson) -> None:
    one, coop = Eco(contexts=1, context=4, epochs=4), Coop(context=4, epochs=4)
    one.fit(lesson)
    coop.fit(lesson)
    torch.testing.assert_close(one.tensors["weights"], coop.tensors["weights"], atol=1e-5, rtol=1e-5)


def test_the_criterion_is_the_mean_over_pairs_of_different_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    stacks = torch.randn(3, 4, 6, dtype=torch.double, generator=generator)  # classes, samples, channels
    weights = stacks[:, 0]
    total = torch.zeros(6, dtype=torch.double)
    for (a, i), (b, j) in itertools.product(itertools.product(range(3), range(4)), repeat=2):
        if a != b:
            total += stacks[a, i] * stacks[b, j]
    expected = -0.3 * total / (3 * 2 * 4 * 4) + 0.7 * weights.var(0)
    torch.testing.assert_close(criterion(stacks.sum(1), torch.full((3,), 4.0), weights, 0.3, 0.7), expected)


def test_divergences_are_summed_over_classes() -> None:
    queries, support = (torch.randn(n, 5, dtype=torch.double).softmax(1) for n in (3, 4))
    naive = [[float((q * (q / s).log()).sum()) for s in support] for q in queries]
    torch.testing.assert_close(divergence(queries, support), torch.tensor(naive, dtype=torch.double))


def test_proker_solves_its_system() -> None:
    keys, residual = unit(torch.randn(12, 5, dtype=torch.double)), torch.randn(12, 3, dtype=torch.double)
    kernel = torch.tensor([[math.exp(-1.3 * (1 - float(a @ b))) for b in keys] for a in keys], dtype=torch.double)
    solved = coefficients(keys, residual, 1.3, 0.2)
    torch.testing.assert_close((kernel / 0.2 + torch.eye(12, dtype=torch.double)) @ solved, residual)


def test_gda_is_a_gaussian_with_one_covariance(lesson: Lesson, test_clips: Clips) -> None:
    """The difference of two classes' logits, of the Gaussian part, is that of the log-densities."""
    gda = fitted("gda", lesson)
    support = lesson.support
    assert support is not None
    rows = unit(support.passes.flatten(0, 1)).double()
    labels = support.known.repeat(VIEWS)
    means = torch.stack([rows[labels == k].mean(0) for k in range(4)])
    centred, width = rows - means[labels], rows.shape[1]
    covariance = centred.T @ centred / (len(rows) - 1)
    precision = width * torch.linalg.inv((len(rows) - 1) * covariance + covariance.trace() * torch.eye(width))
    query = unit(test_clips.pooled).double()
    offsets = query[:, None] - means
    density = -0.5 * torch.einsum("nkd,de,nke->nk", offsets, precision, offsets)
    mine = query.float() @ gda.tensors["slopes"].T + gda.tensors["offsets"]
    torch.testing.assert_close(mine - mine[:, :1], (density - density[:, :1]).float(), atol=1e-3, rtol=1e-3)


def test_gda_read_from_a_file_has_no_clips_for_new_classes(lesson: Lesson) -> None:
    gda = Gda()
    gda.tensors = fitted("gda", lesson).tensors
    with pytest.raises(DataError, match="which no file keeps"):
        gda.transferred(lesson.texts)


def test_projected_gradients_never_point_against_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient, direction = torch.randn(2, 3, 4, generator=generator)
        found = projected(gradient, direction)
        assert (found * direction).sum() >= -1e-5
        if (gradient * direction).sum() >= 0:
            assert torch.equal(found, gradient)


def test_the_adapter_counts_the_authors_parameters() -> None:
    count = {blocked: sum(p.numel() for p in _Block(512, blocked, 0.2, 0.0).parameters()) - 1 for blocked in (0, 1)}
    assert count == {0: 107_712, 1: 197_760}


def test_entropy_of_the_mean_and_the_surest_views() -> None:
    logits = torch.randn(20, 5, dtype=torch.double)
    mean = logits.softmax(1).mean(0)
    torch.testing.assert_close(entropy_of_mean(logits), -(mean * mean.log()).sum())
    each = torch.tensor([float(-(row * row.log()).sum()) for row in logits.softmax(1)])
    assert surest(logits, 0.1).tolist() == each.argsort()[:2].tolist() and len(surest(logits, 0.001)) == 1


def test_confidence_is_one_for_certainty_and_zero_for_none() -> None:
    certain, none = one_hot(torch.tensor([2]), 4), torch.full((1, 4), 0.25)
    torch.testing.assert_close(confidence(torch.cat([certain, none])), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)


def test_x_more_with_history_depends_on_the_order(lesson: Lesson, test_clips: Clips) -> None:
    history = fitted("x_more", lesson, weighing="history")
    turned = history.logits(test_clips[torch.arange(23, -1, -1)]).flip(0)
    assert not torch.allclose(history.logits(test_clips), turned)


def test_probability_ensembles_average_the_softmaxes(lesson: Lesson, test_clips: Clips) -> None:
    head = fitted("zero_shot", lesson, ensemble="probabilities")
    rows = unit(test_clips.pooled)
    each = [(20 * rows @ unit(torch.stack([s[p] for s in lesson.texts.sentences])).T).softmax(1) for p in range(2)]
    torch.testing.assert_close(head.logits(test_clips).exp(), torch.stack(each).mean(0))


def test_fpl_takes_its_quota_once_and_supervision_helps_itself_to_labels(lesson: Lesson, test_clips: Clips) -> None:
    plain, taught = (fitted("grip", lesson, rounds=1, confident=4, supervised=flag) for flag in (False, True))
    assert not torch.equal(plain.tensors["weights"], taught.tensors["weights"])
    assert right(taught.logits(test_clips), test_clips.known) > 12


def test_copies_of_one_clip_have_no_covariance(lesson: Lesson, test_clips: Clips) -> None:
    """A class with one clip that shots repeat: rounding must not become a precision of 1e14."""
    assert lesson.support is not None
    alone = lesson.support[torch.tensor([0, 3, 6, 9]).repeat_interleave(3)]
    bare = Clips(alone.pooled, alone.labels)
    gda = fitted("gda", Lesson(lesson.texts, lesson.scale, bare))
    logits, zero = gda.logits(test_clips), gda.zero_shot(test_clips)
    torch.testing.assert_close(logits - logits[:, :1], zero - zero[:, :1])


def test_one_class_is_none(lesson: Lesson) -> None:
    with pytest.raises(DataError, match="at least two classes"):
        Lesson(ClassTexts(NAMES[:1], lesson.texts.sentences[:1]), 20.0)


def test_options_have_their_types_and_limits() -> None:
    assert create("classifier", "coop", {"context": 4.0}).context == 4
    for name, options in (
        ("tip_adapter_f", {"epochs": 0}),
        ("tip_adapter", {"beta_steps": 0}),
        ("proker", {"ridge_steps": 0}),
    ):
        with pytest.raises(ConfigError, match="at least"):
            create("classifier", name, options)


def test_probability_ensembles_need_equally_many_sentences(lesson: Lesson) -> None:
    texts = ClassTexts(NAMES, (lesson.texts.sentences[0][:1], *lesson.texts.sentences[1:]))
    with pytest.raises(DataError, match="equally many sentences"):
        fitted("zero_shot", Lesson(texts, 20.0), ensemble="probabilities")
