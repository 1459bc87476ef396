"""``videoclip train``, ``evaluate``, ``blend``, ``merge`` and ``convert``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoclip.cli.arguments import (
    AddArguments,
    Command,
    count,
    image_transform,
    positive,
    share,
    transform_of,
)
from videoclip.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from videoclip.data.manifest import Clip
    from videoclip.model import VideoTextModel
    from videoclip.store.source import Source
    from videoclip.training.evaluate import Evaluation


def train(args: argparse.Namespace) -> None:
    """Train a model from a config."""
    from videoclip.compare.seeds import train_seeds
    from videoclip.config import dump, find_config, load_config
    from videoclip.demo import prepare_data
    from videoclip.training.loop import train as run_training
    from videoclip.training.processes import leave_launch

    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return
    out = args.out or Path("runs") / "_".join([find_config(args.config).stem, *args.overrides]).replace("/", "-")
    if args.seeds:
        seeds = range(config.train.seed, config.train.seed + args.seeds)
        if found := train_seeds(config, out, seeds, args.resume, prepare_data):
            print(json.dumps(found, indent=2))
    elif report := run_training(config, out, args.resume, prepare_data):
        print(json.dumps(report, indent=2))
        print(f"{out / 'best'}: epoch {report['best_epoch'] + 1}, chosen by {report['selected_by']}")
    leave_launch()


def evaluate(args: argparse.Namespace) -> None:
    """Score a checkpoint on a split."""
    from videoclip.data.manifest import of_split, read_manifest
    from videoclip.data.protocol import load_protocol
    from videoclip.errors import DataError
    from videoclip.files import make_folder
    from videoclip.model import load_model
    from videoclip.retrieval.runs import write_evaluation
    from videoclip.store import FeatureStore
    from videoclip.training.evaluate import evaluate as run_evaluation
    from videoclip.training.evaluate import source_for
    from videoclip.training.processes import join_launch, leave_launch

    manifest, protocol = read_manifest(args.manifest), load_protocol(args.protocol)
    protocol.check(args.split, [clip for clip in manifest if clip.split == args.split], args.manifest)
    clips = of_split(manifest, args.split, args.manifest)
    bank = of_split(manifest, args.bank, args.manifest) if args.bank else None
    if bank is None and {"qb_norm", "nnn"} & set(args.transductive):
        raise DataError("qb_norm and nnn need a bank of other sentences: name a split for it (--bank train).")
    if args.out:
        make_folder(args.out)

    device, main = join_launch()
    model = load_model(args.checkpoint).to(device)
    store = FeatureStore(args.store) if args.store else None
    source = source_for(model, store, [*clips, *(bank or ())])
    relevance = _relevance(args, clips, source)
    found = run_evaluation(model, source, clips, args.allow_missing, protocol.rule)
    made_from = None if store is None else store.fingerprint
    summary = {"protocol": protocol.label(args.split, clips), "store": made_from, **found.summary()}

    try:
        summary |= _more_scores(args, model, source, found, relevance, clips, bank)
    finally:  # what was measured is kept, whatever fails after it
        if main:
            _report(args, summary, found)
    if args.out:
        write_evaluation(found, args.out, _file_name(args.split), write=main)
    leave_launch()


def _report(args: argparse.Namespace, summary: dict[str, Any], found: Evaluation) -> None:
    """Print metrics, and write them and the ranks."""
    from videoclip.files import replace_text

    text = json.dumps(summary, indent=2)
    print(text)
    if args.out:
        name = _file_name(args.split)
        replace_text(args.out / f"{name}.json", text + "\n")
        found.write_ranks(args.out, name)


def _more_scores(
    args: argparse.Namespace,
    model: VideoTextModel,
    source: Source,
    found: Evaluation,
    relevance: np.ndarray | None,
    clips: Sequence[Clip],
    bank: Sequence[Clip] | None,
) -> dict[str, Any]:
    """Compute the metrics that were asked for in addition: graded ones, and those that look at several queries."""
    import torch

    from videoclip.metrics import relevance_metrics
    from videoclip.retrieval.hubness import bank_scores, corrected

    more: dict[str, Any] = {}
    if relevance is not None:
        more["graded"] = relevance_metrics(found.scores.whole(), relevance)
    if args.transductive:
        others = None if bank is None else bank_scores(model, source, clips, bank)
        default = 1 / model.logits(torch.ones((), device=model.logit_scale.device)).item()
        temperature = default if args.temperature is None else args.temperature
        more["transductive"] = corrected(args.transductive, found.scores, temperature, others)
    return more


def _relevance(args: argparse.Namespace, clips: Sequence[Clip], source: Source) -> np.ndarray | None:
    """Read graded relevance, and check it against the texts and videos that will be scored."""
    import numpy as np

    from videoclip.errors import DataError
    from videoclip.files import reading
    from videoclip.metrics import check_relevance
    from videoclip.store.dataset import captions, in_store

    if args.relevance is None:
        return None
    with reading(args.relevance, "an array in a .npy file"):
        try:
            array: np.ndarray = np.load(args.relevance, allow_pickle=False)
        except ValueError:  # numpy's own message recommends to allow pickles
            array = None  # type: ignore[assignment]
    if not isinstance(array, np.ndarray):
        raise DataError(f"{args.relevance}: cannot be read as an array in a .npy file; write it with numpy.save.")
    scored = in_store(clips, source, args.allow_missing)
    try:
        check_relevance(array, (len(captions(scored)), len(scored)))
    except DataError as error:
        raise DataError(f"{args.relevance}: {error}") from error
    return array


def _file_name(split: str) -> str:
    """Return the name that a split's files have: a split may be called val/seen."""
    return split.replace("/", "-") or "all"


def blend(args: argparse.Namespace) -> None:
    """Mix the weights of two checkpoints: (1 - alpha) x the first + alpha x the second."""
    from videoclip.weights import blend as run_blending

    run_blending(args.first, args.second, args.alpha, args.out)
    mix = f"{args.out}: {1 - args.alpha:g} x {args.first} + {args.alpha:g} x {args.second}"
    print(printable(mix))


def merge(args: argparse.Namespace) -> None:
    """Fold what was trained inside the towers into their own weights, where the tuning allows it."""
    from videoclip.model import load_model
    from videoclip.weights import merge as run_merging

    merged = run_merging(load_model(args.checkpoint), args.out)
    fingerprint = merged.backbone.fingerprint  # type: ignore[union-attr]
    print(printable(f"{args.out}: the scores of {args.checkpoint} from plain towers, backbone {fingerprint}"))


def convert(args: argparse.Namespace) -> None:
    """Turn a checkpoint of an original repository, towers and head, into one of ours."""
    from videoclip.backbone import create_backbone
    from videoclip.convert import convert_checkpoint

    backbone = create_backbone(args.model, args.pretrained, **transform_of(args)) if args.model else None
    model = convert_checkpoint(args.file, args.system, args.out, backbone)
    tunings = "+".join(tuning.name for tuning in model.config.image_tuning)
    parts = f"image tower {tunings}, temporal {model.config.temporal.name}, similarity {model.config.similarity.name}"
    fingerprint = model.backbone.fingerprint  # type: ignore[union-attr]
    print(printable(f"{args.out}: {parts}, backbone {fingerprint}"))


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="a YAML file, or the name of a shipped one such as demo/lstm")
    sub.add_argument("overrides", nargs="*", metavar="a.b=value")
    sub.add_argument("--out", type=Path, help="the run's folder (default: runs/CONFIG, with any overrides)")
    sub.add_argument("--seeds", type=count, help="train so many seeds, from train.seed on, and tell how they spread")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--print-config", action="store_true", help="show the resolved config and stop")


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoint", type=Path, help="a run's folder, or a checkpoint")
    sub.add_argument("--manifest", type=Path, required=True)
    sub.add_argument("--store", help="needed unless the image tower was trained; then its pixels, if it has any, serve")
    sub.add_argument("--split", default="test")
    sub.add_argument("--protocol", default="custom", help="check the split against this card (msrvtt_1k_a)")
    sub.add_argument("--allow-missing", action="store_true", help="leave out clips that the store lacks")
    sub.add_argument("--relevance", type=Path, help="graded relevance (.npy, texts x videos), for nDCG and mAP")
    sub.add_argument("--out", type=Path, help="folder for metrics, ranks, TREC run, queries and qrels")
    more = sub.add_argument_group("scores that look at more than one query, in columns of their own")
    more.add_argument("--transductive", nargs="+", choices=["dual_softmax", "sinkhorn", "qb_norm", "nnn"], default=[])
    more.add_argument("--bank", metavar="SPLIT", help="whose sentences qb_norm and nnn look at: train or validation")
    more.add_argument("--temperature", type=positive, help="of the softmaxes (default: the model's own)")


def _blend_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("first", metavar="A", help="a run's folder or a checkpoint, or `pretrained`")
    sub.add_argument("second", metavar="B", help="a run's folder or a checkpoint")
    sub.add_argument("--alpha", type=share, default=0.5, help="share of B, 0 to 1 (default 0.5)")
    sub.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")


def _merge_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoint", help="a run's folder or a checkpoint")
    sub.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint; its towers in OUT/backbone")


def _convert_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a state dict: .safetensors, or what torch.save wrote")
    sub.add_argument("--system", required=True, help="whose checkpoint it is; a wrong name lists all")
    sub.add_argument("--model", help="the CLIP that was tuned, for systems that train inside its towers")
    sub.add_argument("--pretrained", help="its tag, or a file of weights")
    image_transform(sub)
    sub.add_argument("--out", type=Path, required=True, help="folder for config, head and backbone")


COMMANDS: dict[Command, AddArguments] = {
    train: _train_arguments,
    evaluate: _evaluate_arguments,
    blend: _blend_arguments,
    merge: _merge_arguments,
    convert: _convert_arguments,
}
