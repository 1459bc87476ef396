"""``videoclip rerank`` and ``videoclip search``."""

from __future__ import annotations

import argparse
from pathlib import Path

from videoclip.cli.arguments import AddArguments, Command, count, share, trust_argument
from videoclip.errors import printable


def rerank(args: argparse.Namespace) -> None:
    """Re-rank an initial run with CLIP's best frame."""
    from videoclip.errors import DataError
    from videoclip.files import make_folder
    from videoclip.retrieval.rerank import rerank as run_reranking
    from videoclip.retrieval.runs import TIES, read_qrels, read_queries, read_run, run_metrics, write_run
    from videoclip.store import FeatureStore

    store, before, queries = FeatureStore(args.store), read_run(args.run), read_queries(args.queries)
    qrels = read_qrels(args.qrels) if args.qrels else None
    for path, content in ((args.run, before), (args.queries, queries), (args.qrels, qrels)):
        if content is not None and not content:
            raise DataError(f"{path}: contains no query.")
    old = run_metrics(before, qrels) if qrels is not None else {}  # every input is checked before the work
    make_folder(args.out.parent)
    backbone = store.open_backbone(args.trust, "auto")
    after = run_reranking(before, queries, store, backbone, args.weight, args.depth, args.scaling)
    write_run(after, args.out, "rerank")
    if qrels is not None:
        new = run_metrics(after, qrels)
        for name in [name for name in old if name != "tied"]:
            print(f"{name:>5}  before {old[name]:6.2f}  after {new[name]:6.2f}")
        print(f"tied queries  before {old['tied']}  after {new['tied']} ({TIES}; trec_eval orders them by id)")
    print(f"{args.out}: {len(after)} queries re-ranked to depth {args.depth}")


def search(args: argparse.Namespace) -> None:
    """Find the clips of a store that fit a sentence."""
    from videoclip.model import load_model
    from videoclip.retrieval.search import search as run_search

    model = load_model(args.checkpoint) if args.checkpoint else None
    for hit in run_search(args.store, args.text, args.k, model, args.trust):
        where = f"best at {hit.seconds:.2f} s of {hit.start:.2f} to {hit.end:.2f} s"
        gone = "  (its file no longer exists)" if hit.vanished else ""
        print(f"{hit.score:7.4f}  {printable(hit.id)}  {where}{gone}")


def _rerank_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--run", type=Path, required=True, help="initial ranking, TREC run format")
    sub.add_argument("--queries", type=Path, required=True, help="lines of query, tab, text")
    sub.add_argument("--store", required=True)
    sub.add_argument("--out", type=Path, required=True, help="the re-ranked run")
    sub.add_argument("--qrels", type=Path, help="relevance judgements, for metrics before and after")
    sub.add_argument("--weight", type=share, default=0.4, help="of the initial score, 0 to 1 (default 0.4)")
    sub.add_argument("--depth", type=count, default=1000, help="videos re-ranked per query (default 1000)")
    trust_argument(sub)
    sub.add_argument("--scaling", choices=["none", "minmax"], default="minmax", help="of both scores before mixing")


def _search_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("store", help="a store, or the address of a pushed one")
    sub.add_argument("text")
    sub.add_argument("-k", type=count, default=5, help="how many clips (default 5)")
    sub.add_argument("--checkpoint", type=Path, help="a trained model instead of plain query scoring")
    trust_argument(sub)


COMMANDS: dict[Command, AddArguments] = {rerank: _rerank_arguments, search: _search_arguments}
