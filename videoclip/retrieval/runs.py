"""TREC run and qrels files, query files, and metrics of a run.

A run line is ``query Q0 video rank score tag``; a qrels line ``query 0 video relevance``; a query line
``query<TAB>text``. Within a query videos are ordered by score, equal scores by the rank given in the file.

Ids in these files cannot contain white space. It is written as in addresses, ``my%20clip.mp4``, as are control
characters, lone surrogates and ``%`` itself (``%25``); reading undoes it. Any other ``%`` stays as it is, so that ids
in files of other programs are read unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from videoclip.errors import DataError
from videoclip.files import read_lines, replace_text
from videoclip.training.evaluate import Evaluation

Run = dict[str, list[tuple[str, float]]]  # query -> (video, score), best first
Qrels = dict[str, set[str]]  # query -> relevant videos
Line = TypeVar("Line")

TIES = "equal scores keep the order of their ranks in the run"
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f%\ufeff\ud800-\udfff]")
_ESCAPED = re.compile(r"%[0-7][0-9a-f]|%[cd][0-9a-f]%[89ab][0-9a-f]|%e[0-9a-f](?:%[89ab][0-9a-f]){2}", re.IGNORECASE)


def escape_id(name: str) -> str:
    """Return an id without white space, as TREC files have it."""
    return _UNSAFE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), name
    )


def unescape_id(text: str) -> str:
    """Return the id that ``escape_id`` has escaped; what it would not have written stays."""

    def original(found: re.Match[str]) -> str:
        character = bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "surrogatepass")
        return character if _UNSAFE.fullmatch(character) else found[0]

    return _ESCAPED.sub(original, text)


def read_run(path: str | Path) -> Run:
    """Read a TREC run.

    Raises:
        DataError: the file cannot be read, a line is malformed, a score is not finite, or a query names a video twice.
    """
    found: dict[str, list[tuple[float, int, str]]] = {}
    for query, video, rank, score in _lines(path, "query Q0 video rank score tag", _run_line):
        found.setdefault(query, []).append((-score, rank, video))
    for query, entries in found.items():
        if len({video for *_, video in entries}) < len(entries):
            raise DataError(f"{path}: query {query!r} names a video more than once.")
    return {query: [(video, -negative) for negative, _, video in sorted(entries)] for query, entries in found.items()}


def write_run(run: Mapping[str, Sequence[tuple[str, float]]], path: str | Path, tag: str = "videoclip") -> None:
    """Write a TREC run; videos of a query must come best first. Scores are written with all their digits.

    Raises:
        DataError: a score is not finite, or an id is empty.
        VideoclipError: the file cannot be written.
    """
    lines = []
    for query, entries in run.items():
        for rank, (video, score) in enumerate(entries, 1):
            if not math.isfinite(score):
                raise DataError(f"{path}: the score of video {video!r} for query {query!r} is {score}, not finite.")
            lines.append(f"{_written(query)} Q0 {_written(video)} {rank} {float(score)!r} {_written(tag)}\n")
    replace_text(Path(path), "".join(lines))


def read_qrels(path: str | Path) -> Qrels:
    """Read relevance judgements; relevance above 0 is relevant.

    Raises:
        DataError: the file cannot be read, or a line is malformed.
    """
    relevant: Qrels = {}
    for query, video, relevance in _lines(path, "query 0 video relevance", _qrels_line):
        judged = relevant.setdefault(query, set())
        if relevance > 0:
            judged.add(video)
    return relevant


def write_qrels(qrels: Mapping[str, set[str]], path: str | Path) -> None:
    """Write the relevant videos of each query; queries without any cannot be written.

    Raises:
        VideoclipError: an id is empty, or the file cannot be written.
    """
    lines = [f"{_written(q)} 0 {_written(video)} 1\n" for q, videos in qrels.items() for video in sorted(videos)]
    replace_text(Path(path), "".join(lines))


def read_queries(path: str | Path) -> dict[str, str]:
    """Read ``query<TAB>text`` lines.

    Raises:
        DataError: the file cannot be read, a line has no tab, or a query has two texts.
    """
    queries: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{path}, line {number}: expected query, tab, text; got {line[:80]!r}.")
        query, text = unescape_id(name.strip()), text.strip()
        if queries.setdefault(query, text) != text:
            raise DataError(f"{path}, line {number}: query {query!r} has another text already; queries must be unique.")
    return queries


def write_queries(queries: Mapping[str, str], path: str | Path) -> None:
    """Write ``query<TAB>text`` lines; white space in a text becomes single spaces.

    Raises:
        VideoclipError: an id is empty, or the file cannot be written.
    """
    replace_text(Path(path), "".join(f"{_written(q)}\t{' '.join(text.split())}\n" for q, text in queries.items()))


def write_evaluation(found: Evaluation, folder: Path, name: str, depth: int = 1000, write: bool = True) -> None:
    """Write an evaluation as ``NAME.run``, ``NAME.queries.tsv`` and ``NAME.qrels``; queries are named q0, q1, ...

    Of several processes all must call it, and one of them should ``write``.

    Raises:
        DataError: a score is not finite.
        VideoclipError: a file cannot be written.
    """
    columns, values = found.scores.top(depth)
    if not write:
        return
    write_queries({f"q{number}": text for number, text in enumerate(found.texts)}, folder / f"{name}.queries.tsv")
    owners = enumerate(found.scores.owner.tolist())
    write_qrels({f"q{number}": {found.videos[owner]} for number, owner in owners}, folder / f"{name}.qrels")
    run = {
        f"q{number}": [(found.videos[v], float(s)) for v, s in zip(videos, scores, strict=True)]
        for number, (videos, scores) in enumerate(zip(columns.tolist(), values.tolist(), strict=True))
    }
    write_run(run, folder / f"{name}.run")


def run_metrics(run: Run, qrels: Qrels) -> dict[str, float]:
    """Compute R@1, R@5, R@10 (a relevant video among the first k), mean reciprocal rank and mAP, in per cent.

    Over the judged queries that have a relevant video; one that the run lacks counts as zero. ``tied`` is the number
    of queries whose metrics depend on the tie rule (``TIES``): a relevant and another video have the same score, as
    float32. Other programs have other rules: trec_eval orders equal scores by id, from last to first.

    Raises:
        DataError: no judged query has a relevant video.
    """
    judged = {query: videos for query, videos in qrels.items() if videos}
    if not judged:
        raise DataError("The qrels judge no video relevant.")
    rows = [_query_metrics([video for video, _ in run.get(query, [])], relevant) for query, relevant in judged.items()]
    names = ("R@1", "R@5", "R@10", "MRR", "mAP")
    metrics = {name: 100 * float(value) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}
    return metrics | {"tied": sum(_tied(run.get(query, []), relevant) for query, relevant in judged.items())}


def _query_metrics(videos: Sequence[str], relevant: set[str]) -> list[float]:
    places = [place for place, video in enumerate(videos, 1) if video in relevant]
    first = places[0] if places else np.inf
    precision = sum(found / place for found, place in enumerate(places, 1)) / len(relevant)
    return [first <= 1, first <= 5, first <= 10, 1 / first, precision]


def _tied(entries: Sequence[tuple[str, float]], relevant: set[str]) -> bool:
    with np.errstate(over="ignore"):  # a score beyond float32 becomes infinite, as in trec_eval
        scores = np.array([score for _, score in entries]).astype(np.float32)
    right = np.array([video in relevant for video, _ in entries], bool)
    return bool(np.isin(scores[right], scores[~right]).any())


def _written(name: str) -> str:
    if not name:
        raise DataError("An id is empty, which a TREC file cannot hold; name the clip or query.")
    return escape_id(name)


def _run_line(cells: list[str]) -> tuple[str, str, int, float]:
    query, _, video, rank, score, _ = cells
    return unescape_id(query), unescape_id(video), int(rank), _finite(score)


def _qrels_line(cells: list[str]) -> tuple[str, str, float]:
    query, _, video, relevance = cells
    return unescape_id(query), unescape_id(video), _finite(relevance)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _lines(path: str | Path, form: str, parse: Callable[[list[str]], Line]) -> list[Line]:
    parsed = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            parsed.append(parse(line.split()))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: expected `{form}`, with finite numbers; got {line[:80]!r}."
            ) from error
    return parsed
