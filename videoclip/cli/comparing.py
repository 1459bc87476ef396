"""``videoclip bakeoff``, ``videoclip probe`` and ``videoclip compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from videoclip.cli.arguments import AddArguments, Command, count, seed
from videoclip.errors import printable_lines


def bakeoff(args: argparse.Namespace) -> None:
    """Train many modules on one store and set them beside each other."""
    from videoclip.compare.bakeoff import bakeoff as run_bakeoff
    from videoclip.compare.bakeoff import markdown
    from videoclip.config import find_config, load_config, with_model
    from videoclip.errors import ConfigError
    from videoclip.files import make_folder

    base = load_config(args.on, args.set) if args.on else None
    files = dict.fromkeys(find_config(path).resolve() for path in args.configs)  # each once, in the order given
    configs = {path.stem: with_model(base, path) if base else load_config(path, args.set) for path in files}
    if len(configs) < len(files):
        raise ConfigError("bakeoff", ["two files have the same name, which would be one row; rename one"])
    make_folder(args.out)
    print(markdown(run_bakeoff(configs, args.out, range(args.seeds))), end="")
    print(f"{args.out / 'bakeoff.md'} and {args.out / 'bakeoff.json'}: {len(configs)} models, {args.seeds} seed(s)")


def probe(args: argparse.Namespace) -> None:
    """Tell whether models use time: scores under changed orders and numbers of frames."""
    from videoclip.compare.probe import markdown, plot
    from videoclip.compare.probe import probe as run_probe
    from videoclip.config import load_config
    from videoclip.data.manifest import of_split, read_manifest
    from videoclip.errors import DataError
    from videoclip.files import make_folder, replace_text, to_json
    from videoclip.model import load_model
    from videoclip.store import FeatureStore
    from videoclip.training.evaluate import source_for

    make_folder(args.out)
    found = {}
    for path in args.checkpoints:
        run = path / "config.yaml"
        if (path / "best").is_dir() and run.is_file():
            data = load_config(run).data
            manifest, store = args.manifest or data.manifest, args.store or data.store
            split = args.split or data.test[0]
        elif args.manifest and args.store and args.split:
            manifest, store, split = args.manifest, args.store, args.split
        else:
            raise DataError(f"{path} is no run folder that names its data: add --manifest, --store and --split.")
        model, clips = load_model(path), of_split(read_manifest(manifest), split, manifest)
        source = source_for(model, None if store is None else FeatureStore(store), clips)
        found[path.name] = run_probe(model, source, clips, args.seed)
    replace_text(args.out / "probe.json", to_json(found, indent=2) + "\n")
    replace_text(args.out / "probe.md", markdown(found))
    print(markdown(found), end="")
    plot(found, args.out / "probe.png")
    print(f"{args.out}: probe.md, probe.json and probe.png")


def compare(args: argparse.Namespace) -> None:
    """Tell whether the second of two results is better, query by query, and what else differs."""
    from videoclip.compare.runs import compare as compare_runs
    from videoclip.compare.runs import describe
    from videoclip.files import make_place, replace_text, to_json

    if args.out:
        make_place(args.out)
    found = compare_runs(args.first, args.second)
    print(printable_lines(describe(found)), end="")
    if args.out:
        replace_text(args.out, to_json(found, indent=2) + "\n")


def _compare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("first", type=Path, metavar="RUN_A", help="folder of a training run, or of an evaluation")
    sub.add_argument("second", type=Path, metavar="RUN_B")
    sub.add_argument("--out", type=Path, help="also write everything as JSON")


def _bakeoff_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="YAML files, or shipped ones by name (model/xpool); verdicts are against the first",
    )
    sub.add_argument("--on", metavar="CONFIG", help="data, backbone and training of this one for all (demo/base)")
    sub.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change a value for all")
    sub.add_argument("--seeds", type=count, default=1, help="runs of each (default 1)")
    sub.add_argument("--out", type=Path, default=Path("bakeoff"), help="folder for runs and tables (default bakeoff)")


def _probe_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="a run's folder, or a checkpoint")
    sub.add_argument("--manifest", type=Path, help="the run's own when not given; likewise --store and --split")
    sub.add_argument("--store", type=Path)
    sub.add_argument("--split")
    sub.add_argument("--seed", type=seed, default=0, help="of the shuffling")
    sub.add_argument("--out", type=Path, default=Path("probe"), help="folder for table and plot (default probe)")


COMMANDS: dict[Command, AddArguments] = {
    bakeoff: _bakeoff_arguments,
    probe: _probe_arguments,
    compare: _compare_arguments,
}
