"""The ``videoclip`` command. Every subcommand is a few lines that call the library."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videoclip.errors import VideoclipError

if TYPE_CHECKING:
    from videoclip.store.extract import Summary

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 if it did its work, 1 after an error, which is told in one sentence."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except VideoclipError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is committed stays, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def demo(args: argparse.Namespace) -> None:
    """Write moving-shapes videos, cache, train, evaluate and re-rank; ends with a table and a report page."""
    from videoclip.demo import run_demo

    run_demo(args.out, args.seed)


def cache(args: argparse.Namespace) -> None:
    """Cache frame features of a folder of videos or of a manifest."""
    from videoclip.video.isolation import Limits, prepare

    prepare()  # before anything heavy is imported here
    from videoclip.backbone import create_backbone
    from videoclip.data.manifest import read_manifest
    from videoclip.store.extract import Extras, cache_features
    from videoclip.store.launch import join_launch
    from videoclip.video.clip import FrameChoice

    launch, clips = join_launch(), read_manifest(args.source)
    done = cache_features(
        clips,
        args.out,
        create_backbone(args.model, args.pretrained, "auto"),
        FrameChoice(args.frames, None if args.frames else args.fps, args.sampling),
        decoder=args.decoder,
        dtype=args.dtype,
        precision=args.precision,
        extras=Extras(args.patches, args.words, args.crops, args.augment),
        broken=args.broken,
        retry_failed=args.retry_failed,
        workers=args.workers,
        limits=Limits(args.timeout, args.memory_mib, args.renew_after),
        batch=args.batch,
        shard_mib=args.shard_mib,
        engine=args.engine,
        push_to=args.push,
    )
    if launch.rank == 0:
        _print_summary(done, args)


def _print_summary(done: Summary, args: argparse.Namespace) -> None:
    from videoclip.data.manifest import passed_over
    from videoclip.store import FeatureStore

    store = FeatureStore(args.out)
    for failure in store.failures:
        print(f"not cached ({failure.stage}): {failure.reason}")
    for status, count in store.describe()["status"].items():
        if status != "ok":
            print(f"cached, but {status}: {count} (videoclip store list {args.out} --status {status})")
    if Path(args.source).is_dir() and (others := passed_over(args.source)):
        print("passed over, no videos by their names: " + ", ".join(f"{n} {s}" for s, n in sorted(others.items())))
    if done.cached:
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in done.spent.items())
        print(f"where time went, seconds of all processes: {spent}")
        print(
            f"took {done.seconds:.1f} s; its stages allow {done.limit:.1f} s at best ({done.limit / done.seconds:.0%})"
        )
    print(
        f"{args.out}: {done.cached} clips cached now, {done.present} were there, {done.failed} failed now, "
        f"{done.failed_before} failed before" + ("" if not done.failed_before else " (--retry-failed tries them again)")
    )


def store(args: argparse.Namespace) -> None:
    """Look into, check, merge, export or import stores of features."""
    args.action(args)


def _store_list(args: argparse.Namespace) -> None:
    """List clips: status, frames, decoder, id; then those that failed."""
    from videoclip.store import FeatureStore

    opened = FeatureStore(args.store)
    for clip_id in opened.ids:
        clip = opened[clip_id]
        status = clip.notes.get("status", "unknown")
        if not args.status or args.status in status:
            print(f"{status:14} {len(clip.frames):6} frames  {clip.notes.get('decoder', '')}  {clip_id}")
    for failure in opened.failures:
        if not args.status or args.status == "failed":
            print(f"{'failed':14} {failure.stage}: {failure.reason}")


def _store_verify(args: argparse.Namespace) -> None:
    """Check every row against its checksum; exit status 1 if one does not hold."""
    from videoclip.errors import StoreError
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import verify

    opened = FeatureStore(args.store)
    if problems := verify(opened):
        raise StoreError("\n".join([f"{len(problems)} records are damaged:", *problems]))
    print(f"{args.store}: {len(opened)} clips and {len(opened.captions)} texts, every checksum holds")


def _store_merge(args: argparse.Namespace) -> None:
    """Copy stores of one recipe into a new one; many small shards become few."""
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import merge

    print(f"{args.out}: {len(merge([FeatureStore(path) for path in args.stores], args.out))} clips")


def _store_export(args: argparse.Namespace) -> None:
    """Write a store as .npy and Parquet, or as WebDataset shards."""
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import export_npy, export_webdataset

    opened = FeatureStore(args.store)
    (export_npy if args.format == "npy" else export_webdataset)(opened, args.out)
    print(f"{args.out}: {len(opened)} clips")


def _store_import(args: argparse.Namespace) -> None:
    """Make a store of .npy or .npz files, or of what clip-video-encode wrote."""
    from videoclip.store.transfer import import_features

    print(f"{args.out}: {len(import_features(args.source, args.out, args.backbone, args.fps))} clips")


def train(args: argparse.Namespace) -> None:
    """Train a model from a config."""
    from videoclip.config import dump, find_config, load_config
    from videoclip.demo import prepare_data
    from videoclip.training.loop import train as run_training

    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return
    out = args.out or Path("runs") / "_".join([find_config(args.config).stem, *args.overrides]).replace("/", "-")
    report = run_training(config, out, args.resume, prepare_data)
    if report:
        print(json.dumps(report, indent=2))
        print(f"{out / 'best'}: epoch {report['best_epoch'] + 1}, chosen by {report['selected_by']}")


def evaluate(args: argparse.Namespace) -> None:
    """Score a checkpoint on a split."""
    from videoclip.data.manifest import of_split, read_manifest
    from videoclip.model import load_model
    from videoclip.retrieval.runs import write_evaluation
    from videoclip.store import FeatureStore
    from videoclip.training.evaluate import evaluate as run_evaluation

    clips = of_split(read_manifest(args.manifest), args.split, args.manifest)
    model, store = load_model(args.checkpoint), FeatureStore(args.store)
    store.check_backbone(model.backbone)  # type: ignore[arg-type]
    found = run_evaluation(model, store, clips, args.allow_missing)
    summary = json.dumps({"split": args.split, "store": store.fingerprint, **found.summary()}, indent=2)
    print(summary)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{args.split}.json").write_text(summary + "\n")
        write_evaluation(found, args.out, args.split)


def rerank(args: argparse.Namespace) -> None:
    """Re-rank an initial run with CLIP's best frame."""
    from videoclip.backbone import create_backbone
    from videoclip.retrieval.rerank import rerank as run_reranking
    from videoclip.retrieval.runs import read_qrels, read_queries, read_run, run_metrics, write_run
    from videoclip.store import FeatureStore

    store, before = FeatureStore(args.store), read_run(args.run)
    spec = store.backbone_spec
    backbone = create_backbone(str(spec["name"]), spec["pretrained"], "auto")
    after = run_reranking(before, read_queries(args.queries), store, backbone, args.weight, args.depth, args.scaling)
    write_run(after, args.out, "rerank")
    if args.qrels:
        qrels = read_qrels(args.qrels)
        old, new = run_metrics(before, qrels), run_metrics(after, qrels)
        for name in old:
            print(f"{name:>5}  before {old[name]:6.2f}  after {new[name]:6.2f}")
    print(f"{args.out}: {len(after)} queries re-ranked to depth {args.depth}")


def search(args: argparse.Namespace) -> None:
    """Find the clips of a store that fit a sentence."""
    from videoclip.model import load_model
    from videoclip.retrieval.search import search as run_search

    model = load_model(args.checkpoint) if args.checkpoint else None
    for hit in run_search(args.store, args.text, args.k, model):
        print(f"{hit.score:7.4f}  {hit.id}  best at {hit.seconds:.2f} s of {hit.start:.2f} to {hit.end:.2f} s")


def info(args: argparse.Namespace) -> None:
    """Say what a video file, store or checkpoint is."""
    from videoclip.describe import describe

    for name, value in describe(args.path).items():
        print(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="videoclip", description="CLIP for video.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, add_arguments in COMMANDS.items():
        assert command.__doc__
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=command)
        add_arguments(sub)
    return parser


def _demo_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=Path("demo"), help="folder for videos, store, checkpoints, report")
    sub.add_argument("--seed", type=int, default=0)


def _cache_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", help="a folder of videos, a manifest (.jsonl), or an address (s3://...) of videos")
    sub.add_argument("--out", type=Path, required=True, help="the store")
    sub.add_argument("--model", default="tiny", help="tiny, an open_clip architecture, hf-hub:NAME, or a model folder")
    sub.add_argument("--pretrained", help="a tag of the architecture, or a file of weights")
    what = sub.add_argument_group("what is stored (a store's recipe: another one needs another folder)")
    which = what.add_mutually_exclusive_group()
    which.add_argument("--fps", type=_positive, default=1.0, help="frames a second (default 1)")
    which.add_argument("--frames", type=_count, help="so many frames a clip instead, from equal segments")
    what.add_argument(
        "--sampling",
        choices=["exact", "key"],
        default="exact",
        help="key: the nearest key frames only, each once; cheap on long videos, but not the frames asked for",
    )
    what.add_argument("--decoder", choices=["auto", "pyav"], default="auto")
    what.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of what is stored")
    what.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help="of the encoder")
    what.add_argument("--words", action="store_true", help="also every caption's word features")
    what.add_argument("--patches", action="store_true", help="also every frame's patch tokens")
    what.add_argument("--crops", action="store_true", help="also three square crops of every frame")
    what.add_argument("--augment", type=int, default=0, metavar="N", help="also N random augmentations of every clip")
    how = sub.add_argument_group("how the work is done")
    how.add_argument("--workers", type=int, help="processes (default: one per core; 0: here, without isolation)")
    how.add_argument("--batch", type=_count, default=256, help="frames a pass on a GPU (default 256)")
    how.add_argument("--shard-mib", type=_count, default=256, help="size of the store's files (default 256)")
    how.add_argument("--timeout", type=_positive, default=300, help="seconds without a frame that end a clip (300)")
    how.add_argument("--memory-mib", type=_count, default=3072, help="that one worker may take for a clip (3072)")
    how.add_argument("--renew-after", type=_count, default=1000, help="clips after which a worker is replaced (1000)")
    how.add_argument("--broken", choices=["keep", "refuse"], default="keep", help="what becomes of damaged files")
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const=True,
        default=False,
        metavar="TEXT",
        help="try clips again that failed before; with TEXT, those whose stage or reason holds it",
    )
    how.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: on a Ray cluster")
    how.add_argument("--push", metavar="ADDRESS", help="also copy finished shards there (s3://bucket/store)")


def _store_arguments(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run: Command) -> argparse.ArgumentParser:
        assert run.__doc__
        parser = actions.add_parser(name, help=run.__doc__, description=run.__doc__)
        parser.set_defaults(action=run)
        return parser

    listing = action("list", _store_list)
    listing.add_argument("store")
    listing.add_argument("--status", help="only those of this status: ok, short, damaged, failed")
    action("verify", _store_verify).add_argument("store")
    merging = action("merge", _store_merge)
    merging.add_argument("stores", nargs="+")
    merging.add_argument("--out", type=Path, required=True)
    export = action("export", _store_export)
    export.add_argument("store")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["npy", "webdataset"], default="npy")
    imported = action("import", _store_import)
    imported.add_argument("source", type=Path)
    imported.add_argument("--out", type=Path, required=True)
    imported.add_argument("--backbone", required=True, help="what made the features, by any name")
    imported.add_argument("--fps", type=_positive, help="frames a second, where the files do not tell times")


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="a YAML file, or the name of a shipped one such as demo/lstm")
    sub.add_argument("overrides", nargs="*", metavar="a.b=value")
    sub.add_argument("--out", type=Path, help="the run's folder (default: runs/CONFIG, with any overrides)")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--print-config", action="store_true", help="show the resolved config and stop")


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoint", type=Path, help="a run's folder, or a checkpoint")
    sub.add_argument("--manifest", type=Path, required=True)
    sub.add_argument("--store", type=Path, required=True)
    sub.add_argument("--split", default="test")
    sub.add_argument("--allow-missing", action="store_true", help="leave out clips that the store lacks")
    sub.add_argument("--out", type=Path, help="folder for metrics, TREC run, queries and qrels")


def _rerank_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--run", type=Path, required=True, help="initial ranking, TREC run format")
    sub.add_argument("--queries", type=Path, required=True, help="lines of query, tab, text")
    sub.add_argument("--store", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="the re-ranked run")
    sub.add_argument("--qrels", type=Path, help="relevance judgements, for metrics before and after")
    sub.add_argument("--weight", type=_share, default=0.4, help="of the initial score, 0 to 1 (default 0.4)")
    sub.add_argument("--depth", type=_count, default=1000, help="videos re-ranked per query (default 1000)")
    sub.add_argument("--scaling", choices=["none", "minmax"], default="minmax", help="of both scores before mixing")


def _search_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("store", type=Path)
    sub.add_argument("text")
    sub.add_argument("-k", type=_count, default=5, help="how many clips (default 5)")
    sub.add_argument("--checkpoint", type=Path, help="a trained model instead of plain query scoring")


def _info_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", type=Path)


COMMANDS: dict[Command, Callable[[argparse.ArgumentParser], None]] = {
    demo: _demo_arguments,
    cache: _cache_arguments,
    store: _store_arguments,
    train: _train_arguments,
    evaluate: _evaluate_arguments,
    rerank: _rerank_arguments,
    search: _search_arguments,
    info: _info_arguments,
}


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
