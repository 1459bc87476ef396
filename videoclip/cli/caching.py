"""``videoclip cache`` and ``videoclip store``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videoclip.cli.arguments import (
    AddArguments,
    Command,
    count,
    folder,
    image_transform,
    number,
    positive,
    transform_of,
    workers,
)
from videoclip.errors import printable

if TYPE_CHECKING:
    from videoclip.data.manifest import Clip
    from videoclip.store.catalog import Failure
    from videoclip.store.extract import Summary

PRINTED = 20  # failures that are printed one by one
STATUSES = "exit status 3 if any clip failed (without it: 0 if the store has clips of the source, 1 if it has none)"
NOTHING_CACHED, SOME_FAILED = 1, 3  # exit statuses of cache


def cache(args: argparse.Namespace) -> int:
    """Cache frame features of a folder of videos or of a manifest."""
    from videoclip.video.isolation import Limits, prepare

    prepare()  # before anything heavy is imported here
    from videoclip.backbone import create_backbone
    from videoclip.data.manifest import read_manifest
    from videoclip.errors import DataError
    from videoclip.store.extract import Extras, cache_features
    from videoclip.store.launch import join_launch
    from videoclip.video.clip import FrameChoice

    launch, clips = join_launch(), read_manifest(args.source)
    if not clips:
        raise DataError(f"{args.source}: contains no clip.")
    done = cache_features(
        clips,
        args.out,
        create_backbone(args.model, args.pretrained, "auto", **transform_of(args)),
        FrameChoice(args.frames, None if args.frames else args.fps, args.sampling),
        decoder=args.decoder,
        dtype=args.dtype,
        precision=args.precision,
        resize=args.resize,
        pixel_shape=args.pixel_shape,
        extras=Extras(args.patches, args.pixels, args.words, args.crops, args.augment),
        broken=args.broken,
        retry_failed=args.retry_failed,
        workers=args.workers,
        limits=Limits(args.timeout, args.memory_mib, args.renew_after),
        batch=args.batch,
        shard_mib=args.shard_mib,
        engine=args.engine,
        push_to=args.push,
    )
    if launch.rank > 0:
        return 0
    _print_summary(done, clips, args)
    if not done.cached + done.present:
        return NOTHING_CACHED
    return SOME_FAILED if args.strict and done.failed + done.failed_before else 0


def _print_summary(done: Summary, clips: Sequence[Clip], args: argparse.Namespace) -> None:
    """Print what was left out and why, where time went, and the counts."""
    from videoclip.data.manifest import passed_over
    from videoclip.store import FeatureStore

    store = FeatureStore(args.out)
    ids = {clip.id for clip in clips}
    if Path(args.source).is_dir() and (others := passed_over(args.source)):
        counts = ", ".join(f"{suffix}: {others[suffix]}" for suffix in sorted(others))
        print(printable(f"skipped {sum(others.values())} files that are not videos by their names ({counts})"))
    for status, held in store.describe()["status"].items():
        if status not in ("ok", "unknown"):
            print(f"cached, but {status}: {held} (videoclip store list {args.out} --status {status})")
    _print_failures([failure for failure in store.failures if failure.id in ids], args)
    if done.cached:
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in done.spent.items())
        print(f"CPU seconds by stage, all processes: {spent}")
    if done.cached and done.limit:
        share = done.limit / done.seconds
        print(f"wall time {done.seconds:.1f} s; lower bound from CPU time {done.limit:.1f} s ({share:.0%} efficiency)")
    if done.vanished:
        print(
            f"{done.vanished} clips of the store no longer have a video file, such as "
            f"{printable(store.vanished[0])} (videoclip store prune {args.out} forgets them)"
        )
    print(
        f"{args.out}: {done.cached} clips cached now"
        + (f" ({done.changed} of them because file or stretch changed)" if done.changed else "")
        + f", {done.present} already present, {done.failed} failed now, {done.failed_before} failed before"
        + (" (--retry-failed tries them again)" if done.failed_before else "")
    )


def _print_failures(failures: Sequence[Failure], args: argparse.Namespace) -> None:
    """Print why clips are not in the store: missing files as one line, of the others the first ones."""
    missing = [failure for failure in failures if failure.bytes is None and failure.stage == "open"]
    if missing:
        first = ", ".join(failure.path for failure in missing[:3])
        print(
            printable(f"not cached: {len(missing)} files are missing, such as {first}")
            + "; `videoclip manifest ... --drop-missing` leaves them out of a manifest"
        )
    others = [failure for failure in failures if failure not in missing]
    for failure in others[:PRINTED]:
        print(printable(f"not cached ({failure.stage}): {failure.reason}"))
    if len(others) > PRINTED:
        print(f"not cached: {len(others) - PRINTED} more (videoclip store list {args.out} --status failed)")


def store(args: argparse.Namespace) -> int | None:
    """List, check, prune, merge, export or import stores of features."""
    return args.action(args)


def _store_list(args: argparse.Namespace) -> None:
    """List clips: status, frames, decoder, id; then those that failed."""
    from videoclip.store import FeatureStore

    opened = FeatureStore(args.store)
    vanished = set(opened.vanished)
    for record in opened.records("clips"):
        status, frames = record.notes.get("status", "unknown"), record.tensors["frames"].rows
        if not args.status or args.status in status:
            line = f"{status:14} {frames:6} frames  {record.notes.get('decoder', '')}  {record.key}"
            print(printable(line) + " (its file no longer exists)" * (record.key in vanished))
    for failure in opened.failures:
        if not args.status or args.status == "failed":
            print(printable(f"{'failed':14} {failure.stage}: {failure.reason}"))


def _store_verify(args: argparse.Namespace) -> None:
    """Check every row against its checksum; exit status 1 if one does not hold."""
    from videoclip.errors import StoreError
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import verify

    opened = FeatureStore(args.store)
    if problems := verify(opened):
        raise StoreError("\n".join([f"{args.store}: {len(problems)} faults:", *problems]))
    print(f"{args.store}: {len(opened)} clips and {len(opened.captions)} texts, every checksum holds")


def _store_prune(args: argparse.Namespace) -> None:
    """Forget clips whose video file no longer exists; a later merge drops their rows."""
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import prune

    forgotten = prune(FeatureStore(args.store))
    for key in forgotten:
        print(printable(f"forgotten: {key}"))
    print(f"{args.store}: {len(forgotten)} clips forgotten")


def _store_merge(args: argparse.Namespace) -> None:
    """Copy stores of one recipe into a new one; many small shards become few."""
    from videoclip.store import FeatureStore
    from videoclip.store.transfer import merge

    merged = merge([FeatureStore(path) for path in args.stores], args.out, skip_damaged=args.skip_damaged)
    print(f"{args.out}: {len(merged)} clips and {len(merged.captions)} texts")


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

    imported = import_features(args.source, args.out, args.backbone, args.fps, args.dtype)
    print(
        f"{args.out}: {len(imported)} clips. videoclip cannot encode text for features from elsewhere: search and "
        "rerank refuse this store; merge, export, and captions added by import_texts work."
    )


def _cache_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", help="a folder of videos, a manifest (.jsonl), or an address (s3://...) of videos")
    sub.add_argument("--out", type=folder, required=True, help="the store")
    sub.add_argument("--model", default="tiny", help="tiny, an open_clip architecture, hf-hub:NAME, or a model folder")
    sub.add_argument("--pretrained", help="a tag of the architecture, or a file of weights")
    image_transform(
        sub.add_argument_group(
            "image transform of the model",
            "of a file of weights, where the pretrained tags of its architecture do not agree on it",
        )
    )
    what = sub.add_argument_group("what is stored (a store's recipe: another one needs another folder)")
    which = what.add_mutually_exclusive_group()
    which.add_argument("--fps", type=positive, default=1.0, help="frames a second (default 1)")
    which.add_argument("--frames", type=count, help="so many frames a clip instead, from equal segments")
    what.add_argument(
        "--sampling",
        choices=["exact", "key"],
        default="exact",
        help="key: the nearest key frames only, each once; cheap on long videos, but not the frames asked for",
    )
    what.add_argument("--decoder", choices=["auto", "pyav"], default="auto")
    what.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of what is stored")
    what.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help="of the encoder")
    what.add_argument("--resize", choices=["fast", "pillow"], default="fast", help="pillow: open_clip's pixels exactly")
    what.add_argument(
        "--pixel-shape",
        choices=["square", "stored"],
        help="square: anamorphic video as a player shows it (default, unless the store has stored pixels already)",
    )
    what.add_argument("--words", action="store_true", help="also every caption's word features")
    what.add_argument("--patches", action="store_true", help="also every frame's patch tokens")
    what.add_argument("--pixels", choices=["uint8", "jpeg"], help="also every frame itself, to train inside the tower")
    what.add_argument("--crops", action="store_true", help="also three square crops of every frame")
    what.add_argument(
        "--augment", type=number, default=0, metavar="N", help="also N random augmentations of every clip"
    )
    how = sub.add_argument_group("how the work is done")
    how.add_argument("--workers", type=workers, help="processes (default: one per core; 0: here, without isolation)")
    how.add_argument("--batch", type=count, default=256, help="frames a pass on a GPU (default 256)")
    how.add_argument("--shard-mib", type=count, default=256, help="size of the store's files (default 256)")
    how.add_argument("--timeout", type=positive, default=300, help="seconds without a frame that end a clip (300)")
    how.add_argument("--memory-mib", type=count, default=3072, help="that one worker may take for a clip (3072)")
    how.add_argument("--renew-after", type=count, default=1000, help="clips after which a worker is replaced (1000)")
    how.add_argument("--broken", choices=["keep", "refuse"], default="keep", help="what becomes of damaged files")
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const=True,
        default=False,
        metavar="TEXT",
        help="try clips again that failed before; with TEXT, those whose stage or reason holds it",
    )
    how.add_argument("--strict", action="store_true", help=STATUSES)
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
    action("prune", _store_prune).add_argument("store", type=folder)
    merging = action("merge", _store_merge)
    merging.add_argument("stores", nargs="+")
    merging.add_argument("--out", type=Path, required=True)
    merging.add_argument("--skip-damaged", action="store_true", help="leave out what does not fit its checksum")
    export = action("export", _store_export)
    export.add_argument("store")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["npy", "webdataset"], default="npy")
    imported = action("import", _store_import)
    imported.add_argument("source", type=Path)
    imported.add_argument("--out", type=Path, required=True)
    imported.add_argument("--backbone", required=True, help="what made the features, by any name")
    imported.add_argument("--fps", type=positive, help="frames per second, for files without timestamps")
    imported.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of what is stored")


COMMANDS: dict[Command, AddArguments] = {cache: _cache_arguments, store: _store_arguments}
