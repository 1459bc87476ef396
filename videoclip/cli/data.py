"""``videoclip manifest``."""

from __future__ import annotations

import argparse
from pathlib import Path

from videoclip.cli.arguments import AddArguments, Command
from videoclip.errors import printable


def manifest(args: argparse.Namespace) -> None:
    """Turn a data set's own annotation files into a manifest, checked against a protocol."""
    from videoclip.data.readers import make_manifest

    made = make_manifest(
        args.dataset,
        args.annotations,
        args.videos,
        args.out,
        protocol=args.protocol,
        splits=args.splits,
        classes=args.classes,
        group=args.group,
        drop_missing=args.drop_missing,
    )
    checked = f", as protocol {made.protocol.name} has them" if made.protocol.name != "custom" else ""
    for split in {**made.clips, **made.missing}:
        clips, missing = made.clips.get(split, []), made.missing.get(split, [])
        captions = sum(len(clip.captions) for clip in clips)
        labels = len({clip.label for clip in clips} - {None})
        name = printable(split) or "no split"
        print(f"{name}: {len(clips)} clips, {captions} captions" + f", {labels} classes" * bool(labels) + checked)
        if missing:
            which = "others are left out, they" if args.drop_missing else "of them"
            print(f"{name}: {len(missing)} {which} have no video file, the first is {missing[0]!r}")
    for note in made.notes:
        print(printable(note))
    label = "custom" if made.protocol.name == "custom" else f"{made.protocol.name} ({made.protocol.fingerprint})"
    print(f"{args.out}: {sum(map(len, made.clips.values()))} clips, protocol {label}")


def _manifest_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "dataset",
        help="msrvtt, msvd, didemo, activitynet, vatex, lsmdc, youcook2, charades, qvhighlights, ucf101, hmdb51, "
        "kinetics, ssv2 or vificlip; or what the annotations are: csv, jsonl, folder, clip_video_encode, labels, "
        "class_folders",
    )
    sub.add_argument("--annotations", type=Path, required=True, help="folder of the official files, or one file")
    sub.add_argument("--videos", type=Path, required=True, help="folder of the video files, at any depth")
    sub.add_argument("--out", type=Path, required=True, help="the manifest (.jsonl)")
    sub.add_argument("--protocol", help="check against this card, not the usual one; custom: check nothing")
    sub.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these")
    sub.add_argument("--classes", help="class list for labels that are numbers: a shipped one (ucf101) or a file")
    sub.add_argument("--group", metavar="REGEX", help="what it finds in an id is shared by clips of one group")
    sub.add_argument("--drop-missing", action="store_true", help="leave out clips that have no video file")


COMMANDS: dict[Command, AddArguments] = {manifest: _manifest_arguments}
