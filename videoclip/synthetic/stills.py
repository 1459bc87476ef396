"""Still images of shapes with captions: what the tiny CLIP learns from and is measured on."""

from __future__ import annotations

import itertools

import numpy as np

from videoclip.synthetic.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Array, Frames, draw

# Horizontal and vertical centre of each named place; a picture lies within 0.07 of it.
PLACES = {
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the centre": (0.5, 0.5),
}
CORNERS = {
    "at the top left": (0.28, 0.28),
    "at the top right": (0.72, 0.28),
    "at the bottom left": (0.28, 0.72),
    "at the bottom right": (0.72, 0.72),
}
Fact = tuple[str, str, str, str]  # size, colour, shape, place

FACTS: list[Fact] = list(itertools.product(SIZES, COLOURS, SHAPES, PLACES))


def caption(fact: Fact) -> str:
    """The one caption of a fact, as used for measuring: 480 different ones."""
    size, colour, shape, place = fact
    return f"a {size} {colour} {shape} {place}"


def picture(fact: Fact, background: str, generator: np.random.Generator, side: int = 64) -> Array:
    """Draw a fact with jitter in place, size, colour and noise: (side, side, 3) uint8."""
    size, colour, shape, place = fact
    centre = np.add((PLACES | CORNERS)[place], generator.uniform(-0.07, 0.07, 2))
    return _noisy(
        Frames(
            shape,
            centre[None],
            SIZES[size] * generator.uniform(0.9, 1.1, 1),
            np.clip(np.add(COLOURS[colour], generator.normal(0, 6, 3)), 0, 255)[None],
            np.asarray(BACKGROUNDS[background], float)[None],
        ),
        generator,
        side,
    )


def training_batch(generator: np.random.Generator, size: int, side: int = 64) -> tuple[Array, list[str]]:
    """Random pictures (size, side, side, 3) with captions that name some or all of what is seen.

    Pictures come in groups of up to six that differ in one fact only. In a batch drawn at random hardly any two do,
    and the harder facts are then learned last, if at all.
    """
    facts: list[Fact] = []
    every: list[list[str]] = [list(SIZES), list(COLOURS), list(SHAPES), list(PLACES | CORNERS)]
    while len(facts) < size:
        base = [str(generator.choice(names)) for names in every]
        part = int(generator.choice(4, p=[0.1, 0.1, 0.6, 0.2]))  # mostly the shape: it is the hardest
        variants = generator.permutation(every[part])[:6]
        facts += [(*base[:part], str(v), *base[part + 1 :]) for v in variants]  # type: ignore[misc]
    pairs = [_training_pair(fact, generator, side) for fact in facts[:size]]
    return np.stack([picture for picture, _ in pairs]), [text for _, text in pairs]


def _training_pair(fact: Fact, generator: np.random.Generator, side: int) -> tuple[Array, str]:
    background = str(generator.choice(list(BACKGROUNDS)))
    detail = generator.random()
    if detail < 0.02:
        nothing = Frames("circle", np.full((1, 2), 0.5), np.zeros(1), np.zeros((1, 3)), _row(background))
        return _noisy(nothing, generator, side), f"an empty {background} background"
    text = caption(fact)
    if detail < 0.25:
        text += f" on a {background} background"
    elif detail < 0.35:
        text = text.replace(f"a {fact[0]} ", "an " if fact[1] == "orange" else "a ", 1)
    return picture(fact, background, generator, side), text


def measuring_set(seed: int, images: int, side: int = 64) -> tuple[Array, Array, list[str]]:
    """Fresh pictures (N, side, side, 3), the index (N,) of each one's caption, and the 480 captions."""
    generator = np.random.default_rng(seed)
    answers = generator.integers(len(FACTS), size=images)
    backgrounds = generator.choice(list(BACKGROUNDS), size=images)
    pictures = [picture(FACTS[i], str(b), generator, side) for i, b in zip(answers, backgrounds, strict=True)]
    return np.stack(pictures), answers, [caption(fact) for fact in FACTS]


def _row(background: str) -> Array:
    return np.asarray(BACKGROUNDS[background], float)[None]


def _noisy(frames: Frames, generator: np.random.Generator, side: int) -> Array:
    """Draw at a random finer scale and average down, so that edges vary in softness as decoded video does."""
    factor = int(generator.integers(1, 3))
    fine = draw(frames, side * factor)[0].reshape(side, factor, side, factor, 3).mean((1, 3))
    return np.clip(fine + generator.normal(0, generator.uniform(0, 4), fine.shape), 0, 255).astype(np.uint8)
