"""The training loop: reads a store, trains a model, keeps the epoch that validates best, tests it once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.progress import track

from videoclip.config import ModelConfig, RunConfig
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import DataError, printable
from videoclip.features import TextFeatures
from videoclip.model import (
    MAX_LOGIT_SCALE,
    VideoTextModel,
    build_model,
    checkpoint_blocks,
    load_model,
    load_trained,
)
from videoclip.store import FeatureStore
from videoclip.store.dataset import Batch, TrainingBatches, TrainingPairs, ahead, captions
from videoclip.store.source import PixelSource, Source, texts_of
from videoclip.training.averaging import make_average
from videoclip.training.evaluate import Evaluation, encode_texts, evaluate, runs_live
from videoclip.training.optimizer import make_optimizer, schedule, set_learning_rate
from videoclip.training.processes import start_alike
from videoclip.training.recognition import ClassEvaluation, RecognitionTask, evaluate_classes
from videoclip.training.run import Run, resumable
from videoclip.training.splits import Splits
from videoclip.training.task import ContrastiveTask

SAVE_SECONDS = 60.0  # of training that a kill may cost


def train(
    config: RunConfig,
    out: str | Path,
    resume: bool = False,
    prepare: Callable[[RunConfig], None] | None = None,
) -> dict[str, Any] | None:
    """Train, validate after each epoch, test the best epoch once.

    Args:
        config: the whole run.
        out: its folder; afterwards ``best/`` is a checkpoint for ``load_model`` and ``report.json`` the result.
        resume: continue after an interruption, from the last checkpoint to the same result.
        prepare: makes the data, if need be; all processes call it.

    Returns:
        The report: metrics per test split, best epoch, trained parameters, seconds. None but in the main process.

    Raises:
        VideoclipError: config, data, store or an earlier run in ``out`` do not fit.
    """
    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    run = Run(out, config, resume)
    accelerator = Accelerator(
        mixed_precision=_precision(config.train.precision),
        cpu=not torch.cuda.is_available(),
        log_with=None if config.train.tracker == "none" else config.train.tracker,
        project_dir=str(run.folder),
    )
    finished = run.read_report()
    if finished is not None:
        return finished if accelerator.is_main_process else None
    if prepare is not None:
        prepare(config)
    accelerator.wait_for_everyone()  # until data are made, and until all have seen what the folder held
    with resumable():
        trainer = Trainer(config, run, accelerator)
        if resume:
            trainer.say_where()
        began = time.monotonic()
        trainer.fit()
        accelerator.wait_for_everyone()
        report = trainer.report(time.monotonic() - began)
    for tracker in accelerator.trackers:
        tracker.finish()
    return report if accelerator.is_main_process else None


class Trainer:
    """State of a run in memory; ``train`` is the way in."""

    def __init__(self, config: RunConfig, run: Run, accelerator: Accelerator) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        set_seed(config.train.seed)
        self.model = build_model(config.model)
        self.source = self._source()
        self.splits = Splits.of(config, self.source)
        self.task = self._task().to(accelerator.device)
        self.batches = self._batches()
        self.average = make_average(config.train.average, self.model, self.batches.steps * config.train.epochs)
        if config.train.gradient_checkpointing:
            checkpoint_blocks(self.model)
        self.progress, state = run.load()
        if accelerator.is_main_process:
            run.start(config, self._fingerprint(), accelerator.num_processes)
            run.cut_log(self.progress.epoch, self.progress.step)
        if config.train.tracker != "none":
            accelerator.init_trackers("tensorboard")
        optimizer = make_optimizer(self.task, config.train, self.model.pretrained)
        if state:
            with run.restoring():
                self._restore(state, optimizer)
        start_alike(self.task)
        self.optimizer = accelerator.prepare(optimizer)
        self.waited, self._saved = 0.0, time.monotonic()

    def say_where(self) -> None:
        """Print from where the run is resumed."""
        if self.accelerator.is_main_process:
            place = self.progress.describe(self.batches.steps, self.config.train.epochs)
            print(f"{printable(str(self.run.folder))}: {place}", flush=True)

    def _restore(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's values into everything that is trained."""
        load_trained(self.model, state["model"], str(self.run.folder / "state.pt"))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.task.loss.load_state_dict(state["loss"])
        self.task.load_extra_state(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def fit(self) -> None:
        """Run the epochs that are left."""
        steps, train = self.batches.steps, self.config.train
        done = (self.progress.epoch * steps + self.progress.step) * train.accumulation
        numbers = range(done, train.epochs * steps * train.accumulation)
        stream = ahead(self.batches, numbers, 0 if isinstance(self.source, FeatureStore) else self.source.workers)
        while self.progress.epoch < train.epochs:
            title = f"epoch {self.progress.epoch + 1}/{train.epochs}"
            left = range(self.progress.step, steps)
            for step in track(left, title, disable=not self.accelerator.is_main_process, transient=True):
                self.step(stream, step)
                self.progress.step = step + 1
                if step + 1 < steps and self._is_due():
                    self._save()
            self._validate(steps)
            self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
            self._save()

    def _is_due(self) -> bool:
        """Whether to save now. Only the main process writes, so its clock alone decides, and no other needs to know."""
        by_steps = self.progress.step % self.config.train.checkpoint_steps == 0
        return by_steps or time.monotonic() - self._saved >= SAVE_SECONDS

    def report(self, seconds: float) -> dict[str, Any]:
        """Score the best epoch on the test splits and write the result."""
        best, tests = load_model(self.run.folder / "best").to(self.accelerator.device), {}
        for split, clips in self.splits.test.items():
            found = self._evaluate(best, clips)
            tests[split] = {**found.summary(), "protocol": self.splits.protocol.label(split, clips)}
            if self.accelerator.is_main_process:
                found.write_ranks(self.run.folder, split)
        report = {
            "test": tests,
            "selected_by": f"{self.splits.chosen_on} {self.config.metric}",
            "best_epoch": self.progress.best_epoch,
            "best_value": self.progress.best_value,
            "parameters": sum(p.numel() for p in self.task.parameters() if p.requires_grad),
            "repeats": self.batches.repeats(self.config.train.epochs),
            "seconds": round(seconds, 1),
            "waited_for_data": round(self.waited, 2),
            "processes": self.accelerator.num_processes,
            "seed": self.config.train.seed,
            "store": self._fingerprint(),
        }
        if self.accelerator.is_main_process:
            self.run.report(report)
        return report

    def step(self, stream: Iterator[Batch], step: int) -> None:
        """One optimiser step over ``batch_size`` pairs, of which this process takes its share from ``stream``."""
        train, steps = self.config.train, self.batches.steps
        done = self.progress.epoch * steps + step
        share = schedule(done, steps * train.epochs, train.warmup)
        set_learning_rate(self.optimizer, share)
        losses = []
        for number in range(train.accumulation):
            # Seeded by what is done, not by what was done before: a resumed run draws the same.
            drawn = np.random.default_rng([train.seed, self.progress.epoch, step, number])
            torch.manual_seed(int(drawn.integers(2**31)) + self.accelerator.process_index)
            began = time.perf_counter()
            batch = next(stream).to(self.accelerator.device)
            self.waited += time.perf_counter() - began
            with self.accelerator.autocast():
                loss = self.task.backward(self.task.prepared(batch), drawn.beta(0.5, 0.5), self._backward)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DataError(
                    f"The loss became {losses[-1]} in epoch {self.progress.epoch + 1}, step {step}; lower train.lr."
                )
        self.task.average_gradients()
        self.accelerator.clip_grad_norm_(self.task.parameters(), train.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if self.average is not None:
            self.average.update(self.model)
        values = {"epoch": self.progress.epoch, "step": step, "loss": float(np.mean(losses)), "lr": train.lr * share}
        if self.accelerator.is_main_process:
            self.run.log(values)
        self.accelerator.log({"loss": values["loss"], "lr": values["lr"]}, step=done)

    def _backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss / self.config.train.accumulation)

    def _validate(self, steps: int) -> None:
        """Score the validation clips; keep the weights, or their average, if no earlier epoch was as good."""
        with self.average.applied(self.model) if self.average is not None else nullcontext():
            self._keep_if_best(self._evaluate(self.model, self.splits.validation).metrics, steps)

    def _keep_if_best(self, metrics: dict[str, float], steps: int) -> None:
        value = metrics[self.config.metric]
        sign = -1 if self.config.metric.endswith("_rank") else 1
        improved = self.progress.best_value is None or sign * value > sign * self.progress.best_value
        if improved:
            self.progress.best_value, self.progress.best_epoch = value, self.progress.epoch
        named = {f"val/{name}": number for name, number in metrics.items()}
        if self.accelerator.is_main_process:
            if improved:
                self.model.save(self.run.folder / "best")
            self.run.log({"epoch": self.progress.epoch, "step": steps, **named})
        self.accelerator.log(named, step=(self.progress.epoch + 1) * steps)

    def _task(self) -> ContrastiveTask:
        train, subject = self.config.train, self.splits.subject
        if subject is None:
            return ContrastiveTask(self.model, train, self._teacher())
        return RecognitionTask(self.model, train, subject, self._teacher())

    def _evaluate(self, model: VideoTextModel, clips: Sequence[Clip]) -> Evaluation | ClassEvaluation:
        if self.splits.subject is not None:
            return evaluate_classes(model, self.source, clips, self.splits.subject, self.config.data.allow_missing)
        return evaluate(model, self.source, clips, self.config.data.allow_missing, self.splits.protocol.rule)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.run.save(
                self.progress,
                {
                    "model": self.model.trained(),
                    "optimizer": self.optimizer.state_dict(),
                    "loss": self.task.loss.state_dict(),
                    "task": self.task.extra_state(),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                    "average": self.average.state_dict() if self.average is not None else {},
                },
            )
        self._saved = time.monotonic()

    def _source(self) -> Source:
        """Where clips come from: a store of features, or pixels."""
        data, backbone = self.config.data, self.model.backbone
        assert backbone is not None
        store = None if data.store is None else FeatureStore(data.store)
        if store is not None:
            store.check_backbone(backbone)
            if data.source == "store":
                return store
        clips = read_manifest(data.manifest)
        return PixelSource.of(clips, store, backbone.preprocess, data.augmentation, self.config.train.workers)

    def _fingerprint(self) -> str | None:
        """Of the store's recipe, where there is one."""
        store = texts_of(self.source)
        return None if store is None else store.fingerprint

    def _teacher(self) -> VideoTextModel | None:
        """The towers as they were loaded, without temporal encoder, for distillation."""
        if not self.config.train.distillation:
            return None
        plain = ModelConfig(backbone=self.config.model.backbone, frames=self.config.model.frames)
        return build_model(plain).to(self.accelerator.device).eval()

    def _batches(self) -> TrainingBatches:
        """This process's batches; pairs that do not fill a last batch wait for the next epoch's order."""
        train, processes = self.config.train, self.accelerator.num_processes
        share = train.accumulation * processes
        if train.batch_size % share:
            raise DataError(
                f"train.batch_size={train.batch_size} cannot be shared evenly: make it a multiple of accumulation x "
                f"processes = {share}."
            )
        pairs = self._pairs()
        if len(pairs) < train.batch_size:
            raise DataError(
                f"train.batch_size={train.batch_size} is more than the {len(pairs)} training pairs; lower it."
            )
        return TrainingBatches(pairs, train.batch_size, train.accumulation, (self.accelerator.process_index, processes))

    def _pairs(self) -> TrainingPairs:
        config, clips, model = self.config, self.splits.train, self.model
        store = texts_of(self.source)
        texts: torch.Tensor | TextFeatures | FeatureStore | None = store
        needs_words, subject = model.similarity.needs_words, self.splits.subject
        live = runs_live(model, store) or subject is not None  # no store holds sentences about classes
        classes = None
        if subject is not None:
            if not config.train.objective.pairs:  # one sentence a clip, which nobody reads
                clips = [clip.model_copy(update={"captions": clip.captions[:1]}) for clip in clips]
            classes = [subject.classes.number(str(clip.label), str(config.data.manifest)) for clip in clips]
        if live and (model.config.live_texts or needs_words) and (subject is None or config.train.objective.pairs):
            assert model.backbone is not None
            texts = model.backbone.tokenize(captions(clips))
        elif live:  # a frozen tower without a store that has its sentences, or texts that no loss contrasts
            texts = encode_texts(model, None, captions(clips)).to("cpu")
        assert texts is not None
        return TrainingPairs(
            self.source,
            clips,
            config.model.frames,
            texts,
            words=needs_words and not live,
            context=config.model.context,
            random_frames=config.data.sampling == "random",
            seed=config.train.seed,
            classes=classes,
        )


def _precision(wanted: str) -> str:
    if wanted == "fp16" and not torch.cuda.is_available():
        raise DataError("train.precision=fp16 needs a GPU; use bf16 or fp32.")
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return "no" if wanted == "fp32" else wanted
