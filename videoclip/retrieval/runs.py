"""TREC run and qrels files, query files, and metrics of a run.

A run line is ``query Q0 video rank score tag``; a qrels line ``query 0 video relevance``; a query line
``query<TAB>text``. Within a query videos are ordered by score, equal scores by the rank given in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from videoclip.errors import DataError
from videoclip.training.evaluate import Evaluation

Run = dict[str, list[tuple[str, float]]]  # query -> (video, score), best first
Qrels = dict[str, set[str]]  # query -> relevant videos
Line = TypeVar("Line")


def read_run(path: str | Path) -> Run:
    """Read a TREC run.

    Raises:
        DataError: a line is malformed, or a query names a video twice.
    """
    lines = _lines(path, "query Q0 video rank score tag", lambda f: (f[0], f[2], int(f[3]), float(f[4])), 6)
    found: dict[str, list[tuple[float, int, str]]] = {}
    for query, video, rank, score in lines:
        found.setdefault(query, []).append((-score, rank, video))
    for query, entries in found.items():
        if len({video for *_, video in entries}) < len(entries):
            raise DataError(f"{path}: query {query!r} names a video more than once.")
    return {query: [(video, -negative) for negative, _, video in sorted(entries)] for query, entries in found.items()}


def write_run(run: Mapping[str, Sequence[tuple[str, float]]], path: str | Path, tag: str = "videoclip") -> None:
    """Write a TREC run; videos of a query must come best first.

    Raises:
        DataError: an id contains white space, which the format cannot hold.
    """
    for name in {n for query, entries in run.items() for n in (query, *(video for video, _ in entries))}:
        if len(name.split()) != 1:
            raise DataError(f"{name!r} contains white space, which a TREC run cannot hold; rename the clip or query.")
    with Path(path).open("w") as file:
        for query, entries in run.items():
            for rank, (video, score) in enumerate(entries, 1):
                file.write(f"{query} Q0 {video} {rank} {score:.9g} {tag}\n")


def read_qrels(path: str | Path) -> Qrels:
    """Read relevance judgements; relevance above 0 is relevant.

    Raises:
        DataError: a line is malformed.
    """
    relevant: Qrels = {}
    for query, video, relevance in _lines(path, "query 0 video relevance", lambda f: (f[0], f[2], float(f[3])), 4):
        judged = relevant.setdefault(query, set())
        if relevance > 0:
            judged.add(video)
    return relevant


def read_queries(path: str | Path) -> dict[str, str]:
    """Read ``query<TAB>text`` lines.

    Raises:
        DataError: a line has no tab.
    """
    queries = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if line.strip():
            query, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{path}, line {number}: expected query, tab, text; got {line!r}.")
            queries[query.strip()] = text.strip()
    return queries


def write_evaluation(found: Evaluation, folder: Path, name: str, depth: int = 1000, write: bool = True) -> None:
    """Write an evaluation as ``NAME.run``, ``NAME.queries.tsv`` and ``NAME.qrels``; queries are named q0, q1, ...

    Of several processes all must call it, and one of them should ``write``.
    """
    columns, values = found.scores.top(depth)
    if not write:
        return
    run = {
        f"q{number}": [(found.videos[v], float(s)) for v, s in zip(videos, scores, strict=True)]
        for number, (videos, scores) in enumerate(zip(columns.tolist(), values.tolist(), strict=True))
    }
    write_run(run, folder / f"{name}.run")
    texts = (f"q{number}\t{' '.join(text.split())}\n" for number, text in enumerate(found.texts))
    (folder / f"{name}.queries.tsv").write_text("".join(texts))
    answers = (f"q{number} 0 {found.videos[owner]} 1\n" for number, owner in enumerate(found.scores.owner.tolist()))
    (folder / f"{name}.qrels").write_text("".join(answers))


def run_metrics(run: Run, qrels: Qrels) -> dict[str, float]:
    """R@1, R@5, R@10 (a relevant video among the first k), mean reciprocal rank and mAP, in per cent.

    Over the judged queries that have a relevant video; one that the run lacks counts as zero.

    Raises:
        DataError: no judged query has a relevant video.
    """
    judged = {query: videos for query, videos in qrels.items() if videos}
    if not judged:
        raise DataError("The qrels judge no video relevant.")
    rows = [_query_metrics([video for video, _ in run.get(query, [])], relevant) for query, relevant in judged.items()]
    names = ("R@1", "R@5", "R@10", "MRR", "mAP")
    return {name: 100 * float(value) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def _query_metrics(videos: Sequence[str], relevant: set[str]) -> list[float]:
    places = [place for place, video in enumerate(videos, 1) if video in relevant]
    first = places[0] if places else np.inf
    precision = sum(found / place for found, place in enumerate(places, 1)) / len(relevant)
    return [first <= 1, first <= 5, first <= 10, 1 / first, precision]


def _lines(path: str | Path, form: str, parse: Callable[[list[str]], Line], fields: int) -> list[Line]:
    parsed = []
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        try:
            if len(parts) != fields:
                raise ValueError
            parsed.append(parse(parts))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected `{form}`, got {line!r}.") from error
    return parsed
