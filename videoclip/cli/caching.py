"""``videoclip cache`` and ``videoclip store``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from videoclip.cli.arguments import AddArguments, Command, count, folder, positive

if TYPE_CHECKING:
    from videoclip.store.extract import Summary


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
    if launch.rank == 0:
        _print_summary(done, args)


def _print_summary(done: Summary, args: argparse.Namespace) -> None:
    from videoclip.data.manifest import passed_over
    from videoclip.store import FeatureStore

    store = FeatureStore(args.out)
    for failure in store.failures:
        print(f"not cached ({failure.stage}): {failure.reason}")
    for status, clips in store.describe()["status"].items():
        if status != "ok":
            print(f"cached, but {status}: {clips} (videoclip store list {args.out} --status {status})")
    if Path(args.source).is_dir() and (others := passed_over(args.source)):
        print("passed over, no videos by their names: " + ", ".join(f"{n} {s}" for s, n in sorted(others.items())))
    if done.cached:
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in done.spent.items())
        print(f"where time went, seconds of all processes: {spent}")
    if done.cached and done.limit:
        share = done.limit / done.seconds
        print(f"took {done.seconds:.1f} s; its stages allow {done.limit:.1f} s at best ({share:.0%})")
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
    for record in opened.records("clips"):
        status, frames = record.notes.get("status", "unknown"), record.tensors["frames"].rows
        if not args.status or args.status in status:
            print(f"{status:14} {frames:6} frames  {record.notes.get('decoder', '')}  {record.key}")
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

    print(f"{args.out}: {len(import_features(args.source, args.out, args.backbone, args.fps))} clips")


def _cache_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", help="a folder of videos, a manifest (.jsonl), or an address (s3://...) of videos")
    sub.add_argument("--out", type=folder, required=True, help="the store")
    sub.add_argument("--model", default="tiny", help="tiny, an open_clip architecture, hf-hub:NAME, or a model folder")
    sub.add_argument("--pretrained", help="a tag of the architecture, or a file of weights")
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
    what.add_argument("--augment", type=int, default=0, metavar="N", help="also N random augmentations of every clip")
    how = sub.add_argument_group("how the work is done")
    how.add_argument("--workers", type=int, help="processes (default: one per core; 0: here, without isolation)")
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
    merging.add_argument("--skip-damaged", action="store_true", help="leave out what does not fit its checksum")
    export = action("export", _store_export)
    export.add_argument("store")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["npy", "webdataset"], default="npy")
    imported = action("import", _store_import)
    imported.add_argument("source", type=Path)
    imported.add_argument("--out", type=Path, required=True)
    imported.add_argument("--backbone", required=True, help="what made the features, by any name")
    imported.add_argument("--fps", type=positive, help="frames a second, where the files do not tell times")


COMMANDS: dict[Command, AddArguments] = {cache: _cache_arguments, store: _store_arguments}
