"""``videoclip classify fit``, ``eval``, ``predict`` and ``bench``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from videoclip.cli.arguments import AddArguments, Command, count, seed
from videoclip.errors import printable, printable_lines

if TYPE_CHECKING:
    from videoclip.classify.fit import Task
    from videoclip.classify.reader import Reader
    from videoclip.data.classes import ClassList, Sentences
    from videoclip.data.manifest import Clip
    from videoclip.store import FeatureStore


def classify(args: argparse.Namespace) -> None:
    """Fit, test, apply and compare classifiers of clips on a store."""
    args.action(args)


def _fit(args: argparse.Namespace) -> None:
    """Fit a classifier on labelled clips of a store and save it."""
    from videoclip.classify.fit import Task, fit_head, needs_of, parse_method
    from videoclip.classify.reader import bank_of
    from videoclip.classify.samples import Shots, draw
    from videoclip.files import make_place

    make_place(args.out)  # before the work rather than after it
    method = parse_method(args.method)
    reader = _reader(args)
    everything = _there(_labelled(args, reader.store), reader.store)[0]
    split = args.split or _usual(everything, "train")
    train = _of_split(args, everything, split)
    classes = _classes(args, train)
    validation = _of_split(args, everything, args.validation) if args.validation else []
    needs = needs_of(method)
    drawn = draw(train, classes, args.shots, args.seed, validation) if "support" in needs else Shots([], [], "none")
    pool = _of_split(args, everything, args.unlabelled) if args.unlabelled else train
    bank = bank_of(args.bank, split)
    task = Task.of(reader.model, classes, _sentences(args, classes), "tower" in needs, bank)
    about = {"shots": args.shots, "manifest": str(args.manifest) if args.manifest else "folders of the store"}
    head = fit_head(method, reader, task, drawn, pool, args.seed, args.checkpoint, about)
    head.save(args.out)
    fitted = head.fitted_on
    print(
        f"{len(fitted['support'])} labelled clips, {len(fitted['unlabelled'])} without labels, {len(classes)} classes"
    )
    print(f"validation: {len(fitted['validation'])} clips, {fitted['validation_from']}")
    if fitted["search"]:
        print(f"chosen: {json.dumps(fitted['search'])}")
    size = f"{args.out.stat().st_size / 1024:.0f} KiB"
    print(printable(f"{args.out}: {method.name}, {size}, backbone {head.backbone['fingerprint']}"))


def _eval(args: argparse.Namespace) -> None:
    """Test fitted classifiers on a split; several together are an ensemble."""
    from videoclip.classify.evaluate import Other, apart, judge_together, views_of
    from videoclip.classify.head import load_head
    from videoclip.classify.reader import Reader
    from videoclip.data.manifest import read_manifest
    from videoclip.data.protocol import load_protocol
    from videoclip.errors import DataError
    from videoclip.files import make_folder
    from videoclip.store import FeatureStore

    if args.out:
        make_folder(args.out)
    heads, protocol = [load_head(path) for path in args.head], load_protocol(args.protocol)
    stores = [FeatureStore(path) for path in args.store]
    if len(stores) not in (1, len(heads)):
        raise DataError(f"{len(heads)} classifiers need one store, or one each; {len(stores)} were given.")
    stores = stores * len(heads) if len(stores) == 1 else stores
    if args.classes and not args.transfer:
        heads[0].classes.check(_classes(args, []))
    for head, store in zip(heads, stores, strict=True):
        head.check_backbone(store.recipe.backbone, str(store.folder))
    everything, missing = _there(_labelled(args, stores[0]), stores[0])
    split = args.split or _usual(everything, "test")
    if split and args.manifest:
        protocol.check(split, [clip for clip in read_manifest(args.manifest) if clip.split == split], args.manifest)
    clips = _of_split(args, everything, split) if split else apart(heads, everything)
    other, sentences = None, heads[0].sentences
    classes = _classes(args, clips)
    said = _sentences(args, classes)  # read in any case: a wrong file should not go unnoticed
    if args.transfer:
        other, sentences = Other(classes, said), said.label()
    readers = [Reader(store, head.model(trust=args.trust)) for head, store in zip(heads, stores, strict=True)]
    tuning = _of_split(args, everything, args.weigh_on) if args.weigh_on else []
    judged = judge_together(heads, readers, clips, views_of(args.clips, args.crops), other, tuning)
    summary = {
        **judged.summary(),
        "sentences": sentences,
        "protocol": protocol.label(split or "clips that no classifier was fitted on", clips),
        "missing": missing,
        "stores": [store.fingerprint for store in stores],
        "classifiers": [{"file": str(path), **head.facts()} for path, head in zip(args.head, heads, strict=True)],
    }
    print(json.dumps(summary, indent=2))
    if args.out:
        judged.write(args.out, summary)


def _predict(args: argparse.Namespace) -> None:
    """Say what video files show: the most probable classes."""
    from videoclip.classify.evaluate import predict_files
    from videoclip.classify.head import load_head

    head = load_head(args.head)
    if args.classes:
        head.classes.check(_classes(args, []))
    found = predict_files(head, args.files, args.trust)
    for path, row in zip(args.files, found, strict=True):
        values, numbers = row.topk(min(args.k, len(row)))
        print(printable(str(path)))
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            print(f"  {value:6.3f}  {printable(head.classes.labels[number])}")


def _bench(args: argparse.Namespace) -> None:
    """Compare methods over shots and seeds: table, plot, JSON."""
    from videoclip.classify.bench import Novel, all_methods, bench, write_bench
    from videoclip.classify.fit import needs_of, parse_method
    from videoclip.classify.reader import class_texts
    from videoclip.classify.samples import halves, make_folds, part_of
    from videoclip.errors import DataError
    from videoclip.files import make_folder
    from videoclip.limits import LARGEST_SEED

    if args.seed + args.seeds - 1 > LARGEST_SEED:
        raise DataError(f"--seed {args.seed} leaves no room for {args.seeds} seeds up to {LARGEST_SEED}.")
    make_folder(args.out)
    if args.bank and args.leave_group_out and args.bank.suffix == ".jsonl":
        raise DataError(
            "With --leave-group-out a manifest's captions are those of tested clips, too: give --bank a text."
        )
    reader = _reader(args)
    methods = {text: parse_method(text) for text in args.methods or all_methods()}
    everything = _there(_labelled(args, reader.store), reader.store)[0]
    learned = everything if args.leave_group_out else _of_split(args, everything, args.train)
    classes = _classes(args, learned)
    new = None
    if args.novel == "half":
        classes, new = halves(classes)
    elif args.novel:
        tested = _of_split(args, everything, args.novel)
        classes, new = part_of(classes, learned), part_of(_classes(args, tested), tested)
    folds = make_folds(everything, classes, args.train, args.validation, args.test, args.leave_group_out)
    task = _task(args, reader, classes, any("tower" in needs_of(m) for m in methods.values()))
    novel = None
    if new is not None:
        of_new = class_texts(reader.model, new, _sentences(args, new), task.texts.tower is not None)
        split = _of_split(args, everything, args.test if args.novel == "half" else args.novel)
        novel = Novel(new, of_new, [clip for clip in split if clip.label in new.labels])
    seeds = list(range(args.seed, args.seed + args.seeds))
    results = bench(methods, task, reader, folds, args.shots, seeds, args.out, novel)
    print(printable_lines(write_bench(results, args.out)))


def _reader(args: argparse.Namespace) -> Reader:
    from videoclip.classify.reader import Reader, plain_model
    from videoclip.errors import ConfigError
    from videoclip.model import load_model
    from videoclip.store import FeatureStore

    store = FeatureStore(args.store)
    if args.checkpoint and args.frames:
        raise ConfigError("classify", ["--frames is for the plain mean; a --checkpoint has a number of its own"])
    return Reader(
        store, load_model(args.checkpoint) if args.checkpoint else plain_model(store, args.frames, args.trust)
    )


def _labelled(args: argparse.Namespace, store: FeatureStore) -> list[Clip]:
    """Clips with labels: of the manifest, else of the store by folder."""
    from videoclip.classify.samples import clips_by_folder
    from videoclip.data.manifest import labelled, read_manifest

    return labelled(read_manifest(args.manifest), None, args.manifest) if args.manifest else clips_by_folder(store)


def _task(args: argparse.Namespace, reader: Reader, classes: ClassList, prompts: bool) -> Task:
    """The bench's; where the text tower takes no prompts, methods that learn some are left out."""
    from videoclip.classify.fit import Task
    from videoclip.classify.reader import bank_of
    from videoclip.errors import BackboneError

    bank, sentences = bank_of(args.bank, args.train), _sentences(args, classes)
    try:
        return Task.of(reader.model, classes, sentences, prompts, bank)
    except BackboneError:
        return Task.of(reader.model, classes, sentences, False, bank)


def _there(clips: list[Clip], store: FeatureStore) -> tuple[list[Clip], int]:
    """Those that the store has, and how many it lacks, which is also said."""
    found = [clip for clip in clips if clip.id in store]
    if lost := len(clips) - len(found):
        note = f"{lost} of {len(clips)} labelled clips are not in {store.folder} and are left out"
        print(printable(note), file=sys.stderr)
    return found, lost


def _usual(clips: list[Clip], split: str) -> str | None:
    """A split by its usual name, where there is one."""
    return split if any(clip.split == split for clip in clips) else None


def _of_split(args: argparse.Namespace, clips: list[Clip], split: str | None) -> list[Clip]:
    from videoclip.data.manifest import labelled

    return labelled(clips, split, args.manifest or args.store)


def _classes(args: argparse.Namespace, clips: list[Clip]) -> ClassList:
    from videoclip.data.classes import classes_of, load_classes

    return load_classes(args.classes) if args.classes else classes_of(clips)


def _sentences(args: argparse.Namespace, classes: ClassList) -> Sentences:
    from videoclip.data.classes import sentences_about

    return sentences_about(classes, args.templates, args.descriptions)


def _store_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("store")
    sub.add_argument("--frames", type=count, help="of a clip that are pooled (default: all that are stored)")
    sub.add_argument("--checkpoint", type=Path, help="a trained model that pools them, in place of their mean")
    _label_arguments(sub)
    sub.add_argument(
        "--bank", type=Path, help="captions for x_more: a file with one a line, or a manifest, of its training split"
    )
    sub.add_argument(
        "--validation", metavar="SPLIT", help="to choose on (default: with --shots, up to 4 more clips a class)"
    )
    sub.add_argument("--seed", type=seed, default=0, help="of the shots and of the fitting")
    _trust_argument(sub, "the store")


def _label_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--manifest", type=Path, help="with labels; without it a clip's folder is its class")
    sub.add_argument("--classes", help="class list, a shipped one (ucf101) or a file; default: the labels, sorted")
    sub.add_argument(
        "--templates", default="video", help="a shipped set (clip_ucf101), a file, a text with {}, or none"
    )
    sub.add_argument("--descriptions", type=Path, help="JSON of class -> sentences, beside the templates")


def _trust_argument(sub: argparse.ArgumentParser, what: str) -> None:
    sub.add_argument("--trust", action="store_true", help=f"load the folder or repository that {what} names")


def _fit_arguments(sub: argparse.ArgumentParser) -> None:
    _store_arguments(sub)
    sub.add_argument("--method", default="gda", help="name, or name:option=value,option=value (a wrong name lists all)")
    sub.add_argument("--shots", type=count, help="labelled clips of each class (default: all)")
    sub.add_argument("--split", help="to learn from (default: train, or all clips where there is no such split)")
    sub.add_argument("--unlabelled", metavar="SPLIT", help="for methods without labels (default: what is learned from)")
    sub.add_argument("--out", type=Path, default=Path("classifier.safetensors"))


def _eval_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("head", nargs="+", type=Path, help="one classifier, or several for an ensemble")
    sub.add_argument("--store", nargs="+", required=True, help="one, or one for each classifier")
    _label_arguments(sub)
    sub.add_argument("--split", help="to test on (default: test, or all that it was not fitted on)")
    sub.add_argument("--protocol", default="custom", help="check the split against this card (ucf101_split1)")
    sub.add_argument("--clips", type=count, default=1, help="choices of frames whose predictions are averaged")
    sub.add_argument("--crops", action="store_true", help="also average over the three stored crops")
    sub.add_argument("--weigh-on", metavar="SPLIT", help="choose the ensemble's weights there (default: equal)")
    sub.add_argument("--transfer", action="store_true", help="test other classes than those it was fitted on")
    sub.add_argument("--out", type=Path, help="folder for metrics, predictions and the picture of confusions")
    _trust_argument(sub, "a classifier")


def _predict_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", nargs="+", type=Path, metavar="CLIP")
    sub.add_argument("--head", type=Path, default=Path("classifier.safetensors"))
    sub.add_argument("-k", type=count, default=5, help="how many classes (default 5)")
    sub.add_argument("--classes", help="refuse a classifier of another class list")
    _trust_argument(sub, "the classifier")


def _bench_arguments(sub: argparse.ArgumentParser) -> None:
    _store_arguments(sub)
    sub.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="as for fit; the first is compared with (default: all)"
    )
    sub.add_argument("--shots", type=count, nargs="+", default=[1, 2, 4, 8, 16])
    sub.add_argument("--seeds", type=count, default=3, help="how many, from --seed on (default 3)")
    sub.add_argument("--train", default="train", metavar="SPLIT")
    sub.add_argument("--test", default="test", metavar="SPLIT")
    sub.add_argument(
        "--leave-group-out", action="store_true", help="test each group of clips once, in place of a split"
    )
    sub.add_argument(
        "--novel", nargs="?", const="half", metavar="SPLIT", help="base to novel: a split, or half of the classes"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder of table, plot, JSON; the same one goes on")


def _arguments(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(required=True, metavar="ACTION")
    parts = {"fit": (_fit, _fit_arguments), "eval": (_eval, _eval_arguments)}
    parts |= {"predict": (_predict, _predict_arguments), "bench": (_bench, _bench_arguments)}
    for name, (run, add_arguments) in parts.items():
        parser = actions.add_parser(name, help=run.__doc__, description=run.__doc__)
        parser.set_defaults(action=run)
        add_arguments(parser)


COMMANDS: dict[Command, AddArguments] = {classify: _arguments}
