"""Similarities against the direct form of their papers' code, side by side: 1000 texts x 1000 videos, frozen features.

    python tools/bench_similarity.py

Each row runs in a process of its own. The direct form does what the published code does, in blocks as its evaluation
loop takes them; *products* are the row's own large matrix products alone, in blocks of the same size: what no
arrangement of the rest could beat.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip import registry
from videoclip.compare.cost import in_fresh_process, made_up, time_and_memory
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.files import make_place, replace_text
from videoclip.similarity import Similarity, words_of

Direct = Callable[[Any, TextFeatures, VideoFeatures], Tensor]


def direct_query_scoring(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Weighted sums (q, B, T, D) -> (q, B, D), 16 texts at a time: all at once would need 24 GiB."""
    lines = []
    for part in text.sentence.split(16):
        cosine = torch.einsum("qd,btd->qbt", F.normalize(part, dim=-1), F.normalize(video.frames, dim=-1))
        weights = (cosine / module.temperature).softmax(-1)
        pooled = (weights[..., None] * video.frames).sum(2)
        lines.append(F.cosine_similarity(part[:, None], pooled, dim=-1))
    return torch.cat(lines)


def direct_attention(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Each video as each text sees it, (Q, b, D), 32 videos at a time."""
    columns = []
    for part in (video[i : i + 32] for i in range(0, len(video), 32)):
        pooled = F.normalize(module.pool_by_text(text.sentence, part.frames, part.mask), dim=-1)
        columns.append(torch.einsum("qd,qbd->qb", F.normalize(text.sentence, dim=-1), pooled))
    return torch.cat(columns, 1)


def direct_tokens(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Masked cosines (q, b, L, T), a maximum over the last axis and one over the axis before."""
    tokens, mask = words_of(text)
    word_share, frame_share = module._shares(tokens, mask, video)

    def compare(rows: slice, columns: slice) -> Tensor:
        words, frames = F.normalize(tokens[rows], dim=-1), F.normalize(video.frames[columns], dim=-1)
        cosine = torch.einsum("qld,btd->qblt", words, frames)
        cosine = torch.einsum("qblt,ql->qblt", cosine, mask[rows].float())
        cosine = torch.einsum("qblt,bt->qblt", cosine, video.mask[columns].float())
        by_words = torch.einsum("qbl,ql->qb", cosine.max(-1).values, word_share[rows])
        return (by_words + torch.einsum("qbt,bt->qb", cosine.max(-2).values, frame_share[columns])) / 2

    return _in_squares(compare, len(text), len(video))


def direct_multigrained(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """All four cosines from (q, L, b, T), each softmax moved to the last axis for its matrix and back."""
    tokens, _ = words_of(text)
    sentence, vector = (
        F.normalize(text.sentence, dim=-1),
        F.normalize(F.normalize(video.frames, dim=-1).mean(1), dim=-1),
    )

    def attend(cosine: Tensor, dim: int, matrix: Tensor) -> Tensor:
        weights = (cosine / module.temperature).softmax(dim).movedim(dim, -1) @ matrix[
            : cosine.shape[dim], : cosine.shape[dim]
        ]
        return (weights.movedim(-1, dim) * cosine).sum(dim)

    def compare(rows: slice, columns: slice) -> Tensor:
        words, frames = F.normalize(tokens[rows], dim=-1), F.normalize(video.frames[columns], dim=-1)
        cosine = torch.einsum("qld,btd->qlbt", words @ module.part, frames)
        fine = attend(attend(cosine, 1, module.words_first), 2, module.frames_last)
        fine = fine + attend(attend(cosine, 3, module.frames_first), 1, module.words_last)
        with_video = torch.einsum("qld,bd->qlb", words, vector[columns])
        with_frames = torch.einsum("qd,btd->qbt", sentence[rows], frames)
        coarse = sentence[rows] @ module.whole @ vector[columns].T
        return (coarse + attend(with_video, 1, module.words) + attend(with_frames, 2, module.frames) + fine / 2) / 4

    return _in_squares(compare, len(text), len(video))


def _in_squares(compare: Callable[[slice, slice], Tensor], texts: int, videos: int, side: int = 64) -> Tensor:
    rows = [slice(i, i + side) for i in range(0, texts, side)]
    columns = [slice(i, i + side) for i in range(0, videos, side)]
    return torch.cat([torch.cat([compare(r, c) for c in columns], 1) for r in rows])


def products_of_words(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Words times frames alone, in the blocks that the module itself takes."""
    words, frames = F.normalize(words_of(text)[0], dim=-1), F.normalize(video.frames, dim=-1)

    def compare(some: Tensor, others: Tensor) -> Tensor:
        return (some.flatten(0, 1) @ others.transpose(0, 1).flatten(0, 1).T)[:: words.shape[1], : len(others)]

    return module.in_blocks(compare, (words,), (frames,), 2 * words.shape[1] * frames.shape[1])


def products_of_multigrained(module: Any, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Words times frames and times videos, and the products with the matrices, in the module's own blocks."""
    words, frames = F.normalize(words_of(text)[0], dim=-1), F.normalize(video.frames, dim=-1)
    length, count = words.shape[1], frames.shape[1]

    def compare(some: Tensor, mapped: Tensor, others: Tensor, vectors: Tensor) -> Tensor:
        with_video = some.flatten(0, 1) @ vectors.T
        cosine = mapped.flatten(0, 1) @ others.transpose(0, 1).flatten(0, 1).T
        torch.bmm(module.words_first.expand(len(some), -1, -1), cosine.view(len(some), length, -1))
        torch.bmm(module.frames_first.expand(len(cosine), -1, -1), cosine.view(len(cosine), count, -1))
        return with_video[::length]

    parts = (words, words @ module.part), (frames, frames.mean(1))
    return module.in_blocks(compare, *parts, 6 * length * count)


ROWS: dict[str, tuple[dict[str, object], Direct | None, Direct | None]] = {
    "mean": ({}, None, None),
    "max_frame": ({}, None, None),
    "top_k": ({}, None, None),
    "query_scoring": ({}, direct_query_scoring, None),
    "attention": ({}, direct_attention, None),
    "tokens": ({}, direct_tokens, products_of_words),
    "multigrained": ({}, direct_multigrained, products_of_multigrained),
    "mutual": ({}, None, products_of_words),
    "alignment": ({}, None, None),
    "semantic": ({}, None, None),
    "cross": ({}, None, None),
}


def measure_row(name: str, which: str, frames: int, width: int, words: int) -> tuple[float, float, int, Tensor]:
    """Milliseconds, MiB, texts that were timed, and the scores of a few."""
    options, direct, products = ROWS[name]
    torch.manual_seed(0)
    module: Similarity = registry.create("similarity", name, options, width=width).eval()
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    text, video = made_up(1000, 1000, frames, width, words)
    functions: dict[str, Direct | None] = {"ours": lambda m, t, v: m(t, v), "direct": direct, "products": products}
    function = functions[which]
    assert function is not None
    found = time_and_memory(lambda part: function(module, part, video), text)
    with torch.no_grad():
        return *found, function(module, text[:32], video[:32])


def main() -> None:
    """Measure every row and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ROWS), help="similarities (default: all)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    figures = {}
    print("| similarity | ms | MiB | direct ms | direct MiB | times faster | products ms | largest difference |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for name in args.names:
        which = [
            kind for kind, there in zip(("ours", "direct", "products"), (True, *ROWS[name][1:]), strict=True) if there
        ]
        found = {kind: in_fresh_process(measure_row, name, kind, 12, 512, 32) for kind in which}
        figures[name] = {kind: values[:3] for kind, values in found.items()}
        print(_line(name, found), flush=True)
    if args.json:
        replace_text(make_place(args.json), json.dumps(figures, indent=2) + "\n")


def _line(name: str, found: dict[str, tuple[float, float, int, Tensor]]) -> str:
    ms, mib, timed, scores = found["ours"]
    cells = [f"`{name}`", f"{ms:,.0f}" + ("" if timed == 1000 else f" (from {timed} texts)"), f"{mib:.0f}"]
    if "direct" in found:
        direct = found["direct"]
        cells += [f"{direct[0]:,.0f}", f"{direct[1]:.0f}", f"{direct[0] / ms:.1f}"]
    else:
        cells += [""] * 3
    cells.append(f"{found['products'][0]:,.0f}" if "products" in found else "")
    cells.append(f"{(scores - found['direct'][3]).abs().max():.0e}" if "direct" in found else "")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
