"""``videoclip train``, ``videoclip evaluate`` and ``videoclip convert``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from videoclip.cli.arguments import AddArguments, Command


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


def convert(args: argparse.Namespace) -> None:
    """Turn a checkpoint of an original repository, towers and head, into one of ours."""
    from videoclip.convert import convert_checkpoint

    model = convert_checkpoint(args.file, args.system, args.out)
    parts = f"temporal {model.config.temporal.name}, similarity {model.config.similarity.name}"
    print(f"{args.out}: {parts}, backbone {model.backbone.fingerprint}")  # type: ignore[union-attr]


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="a YAML file, or the name of a shipped one such as demo/lstm")
    sub.add_argument("overrides", nargs="*", metavar="a.b=value")
    sub.add_argument("--out", type=Path, help="the run's folder (default: runs/CONFIG, with any overrides)")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.add_argument("--print-config", action="store_true", help="show the resolved config and stop")


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoint", type=Path, help="a run's folder, or a checkpoint")
    sub.add_argument("--manifest", type=Path, required=True)
    sub.add_argument("--store", required=True)
    sub.add_argument("--split", default="test")
    sub.add_argument("--allow-missing", action="store_true", help="leave out clips that the store lacks")
    sub.add_argument("--out", type=Path, help="folder for metrics, TREC run, queries and qrels")


def _convert_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a state dict: .safetensors, or what torch.save wrote")
    sub.add_argument("--system", required=True, help="clip4clip, clip2video, drl, xclip or xpool")
    sub.add_argument("--out", type=Path, required=True, help="folder for config, head and backbone")


COMMANDS: dict[Command, AddArguments] = {
    train: _train_arguments,
    evaluate: _evaluate_arguments,
    convert: _convert_arguments,
}
