"""Trainer of the Macaron model: regression and masked nucleotides, exact whatever the number of processes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, RandomSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction

from .averaging import WeightAverage, check_same_decay
from .checkpoints import NumProcesses, whole_or_nothing
from .collator import PromoterCollator
from .dataset import PromoterDataset
from .metrics import compute_metrics
from .streaming import StreamedPromoters

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 10


class BeginEpoch(TrainerCallback):
    """Tell the training data which epoch begins, on every process and after a resume, so that masks are drawn anew.

    Parameters
    ----------
    dataset : PromoterDataset or StreamedPromoters
        The training rows.
    """

    def __init__(self, dataset: PromoterDataset | StreamedPromoters):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Set the epoch; where a run is resumed, `state.epoch` lies inside it."""
        self.dataset.begin_epoch(int(state.epoch + 1e-6))


class _FiniteLoss:
    """Remember batches whose loss may not be finite; nothing waits for a GPU until they are checked."""

    def __init__(self, accelerator: Accelerator, name_row: Callable[[int], str] = str):
        self._accelerator, self._name_row = accelerator, name_row
        self._batches: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def note(self, step: int, rows: torch.Tensor, row_losses: torch.Tensor, loss: torch.Tensor) -> None:
        """Remember a batch: optimizer steps before it, its rows and their losses, each (batch,), and its loss ()."""
        self._batches.append((step, rows, row_losses.detach(), loss.detach()))

    def check(self) -> None:
        """Raise on every process if a loss was not finite on any; all processes must call this together."""
        batches, self._batches = self._batches, []
        if not batches:
            return
        finite = torch.stack([torch.isfinite(loss) & torch.isfinite(losses).all() for *_, losses, loss in batches])
        if bool(self._accelerator.gather(finite.all().reshape(1)).all()):
            return
        if bool(finite.all()):
            raise FloatingPointError("the loss is not finite on another process, which names the rows")
        step, rows, losses, _ = batches[int(finite.int().argmin())]
        bad = ~torch.isfinite(losses)
        bad |= ~bad.any()  # without a bad row, the weights have diverged
        found = rows.to(bad.device)[bad].tolist()
        names = ", ".join(map(self._name_row, found[:_SHOWN_ROWS])) + (", ..." if len(found) > _SHOWN_ROWS else "")
        cause = "look at their values, or train in float32"
        if bad.all():
            cause = "the weights have diverged: go on from the last checkpoint with a smaller learning rate"
        raise FloatingPointError(
            f"the loss is not finite at step {step + 1}, from {len(found)} of {len(bad)} rows of a batch ({names}); "
            f"{cause}"
        )


class MacaronTrainer(Trainer):
    """Trainer with the model's own loss.

    The loss of an optimizer step is that of its whole global batch: gradient accumulation and several processes give
    the loss and the gradients of one process that sees all rows at once. (The reconstruction loss is a sum over a
    count, so the mean over parts would not do.) Both terms are logged on their own, `expression_loss` (see
    `MacaronOutput.row_losses`) and `reconstruction_loss`.

    In evaluation the expression is predicted from unmasked sequences, as in use, and the reconstruction from masked
    ones; every measure is one over the whole split. Weights of rows count in training only.

    With `ema_decay`, an average of the weights is evaluated and is what checkpoints and the trained model hold; the raw
    weights, from which training goes on, stand beside it in a checkpoint (`raw_weights.safetensors`).

    A loss that is not finite ends the run with a `FloatingPointError` that names the rows, when the loss is logged
    next, before anything is saved.

    Parameters
    ----------
    *args, **kwargs
        As for `transformers.Trainer`. `data_collator` must be a `PromoterCollator`, `train_dataset` a
        `PromoterDataset` or `StreamedPromoters`, of which each process then reads its share.

    Raises
    ------
    ValueError
        If weights are to be averaged that FSDP or DeepSpeed shards, or the training rows do not fill one batch and
        batches that are not full are dropped.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._check_rows_fill_a_batch()
        # compute_loss scales the loss by the counts that get_batch_samples gives, as models that take
        # `num_items_in_batch` do; then the Trainer does not divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        if self.compute_metrics is None:
            self.compute_metrics = partial(
                compute_metrics, reconstruction_weight=self.model.config.reconstruction_weight
            )
        self._logged_losses = torch.zeros(2, device=self.args.device)
        self._steps_since_log = 0
        self._finite_loss = _FiniteLoss(self.accelerator, getattr(self.train_dataset, "name_row", str))
        self.add_callback(NumProcesses())
        if self.train_dataset is not None:
            self.add_callback(BeginEpoch(self.train_dataset))
        self.average = None if self.args.ema_decay is None else WeightAverage(self.args.ema_decay)
        if self.average is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay averages whole weights, not the shards of FSDP or DeepSpeed")
            self.add_callback(self.average)

    @property
    def _rows_per_step(self) -> int:
        """Rows of an optimizer step, over all processes."""
        return self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps

    def _check_rows_fill_a_batch(self) -> None:
        """Raise before a training that would not take one step."""
        rows = len(self.train_dataset) if isinstance(self.train_dataset, PromoterDataset) else None
        if rows is not None and self.args.dataloader_drop_last and rows < self._rows_per_step:
            raise ValueError(
                f"{rows} training rows are fewer than the batch of {self._rows_per_step}: pass a smaller "
                "--global_batch_size, or --dataloader_drop_last false to train on batches that are not full"
            )

    def train(self, *args, **kwargs):
        """Train; see `transformers.Trainer.train`, and the class on losses that are not finite."""
        result = super().train(*args, **kwargs)
        self._finite_loss.check()
        return result

    def _run_epoch(self, *args, **kwargs):
        """Train for an epoch, but not from a checkpoint of the last step: transformers would take one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self):
        """Return the loader of the training rows, with their numbers in the source."""
        with self._collate_with(replace(self.data_collator, with_rows=True)):
            if isinstance(self.train_dataset, StreamedPromoters):
                return self._make_stream_loader()
            return super().get_train_dataloader()

    def _make_stream_loader(self) -> DataLoader:
        """Return the loader of this process's share of a stream; accelerate would have one process read for all.

        It has no worker processes: each would read all that this one does.
        """
        loader = DataLoader(
            self.train_dataset.share(self.accelerator.process_index, self.accelerator.num_processes),
            batch_size=self._train_batch_size, collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False,
            non_blocking=self.accelerator.non_blocking,
        )  # fmt: skip

    def _get_train_sampler(self, train_dataset=None):
        """Draw whole global batches only, where the last ones may be dropped: an epoch's steps are all alike.

        With accumulation the Trainer would end an epoch with a step of fewer rows than the others.
        """
        sampler = super()._get_train_sampler(train_dataset)
        if not (self.args.dataloader_drop_last and isinstance(sampler, RandomSampler)):
            return sampler
        steps = len(sampler.data_source) // self._rows_per_step
        return RandomSampler(sampler.data_source, num_samples=steps * self._rows_per_step)

    def get_eval_dataloader(self, eval_dataset=None):
        """Return the loader of a split for evaluation: unmasked and masked sequences, the same masks each time."""
        with self._evaluation_settings():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """Return the loader of a split for prediction, as `get_eval_dataloader` does."""
        with self._evaluation_settings():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _evaluation_settings(self) -> Iterator[None]:
        """Collate for evaluation, and keep the last batch, which training may drop."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            with self._collate_with(self.data_collator.for_evaluation()):
                yield
        finally:
            self.args.dataloader_drop_last = drop_last

    @contextmanager
    def _collate_with(self, collator: PromoterCollator) -> Iterator[None]:
        """Make loaders with another collator."""
        usual, self.data_collator = self.data_collator, collator
        try:
            yield
        finally:
            self.data_collator = usual

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the schedule of the learning rate; warn where warming up takes more than half of the run."""
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if self.args.should_log and 2 * warmup_steps > num_training_steps:
            logger.warning(
                "the learning rate warms up for %s steps, and the run has %s: pass a smaller --warmup_steps (below 1 "
                "it is a share of the run, for example 0.1)", f"{warmup_steps:,}", f"{num_training_steps:,}",
            )  # fmt: skip
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Collect the batches of one optimizer step with its weight of rows and number of masked letters, globally."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._steps_since_log += 1
        # Nothing here waits for a GPU.
        rows = torch.zeros((), device=device) + sum(map(self._total_weight, batch_samples))
        masked = [self._num_masked(batch["masked_nucleotides"]).sum().to(device) for batch in batch_samples]
        counts = torch.stack([rows, sum(masked, torch.zeros_like(rows))])
        return batch_samples, self.accelerator.reduce(counts, reduction="sum")

    @staticmethod
    def _total_weight(batch: dict) -> torch.Tensor | int:
        """Sum the weights of the rows of a batch; without weights, count them."""
        return batch["row_weights"].sum() if "row_weights" in batch else batch["labels"].numel()

    @property
    def _reconstructs(self) -> bool:
        """Whether masked nucleotides are reconstructed; else the last block computes the expression positions alone."""
        return self.model.config.reconstruction_weight > 0

    def _num_masked(self, masked_nucleotides: torch.Tensor) -> torch.Tensor:
        """Count the masked letters of each row (batch,) among those that the model reads."""
        return (masked_nucleotides[:, : self.model.config.sequence_length] != -100).sum(dim=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute this batch's share of the loss of the whole optimizer step.

        Parameters
        ----------
        model : nn.Module
            The model, possibly wrapped.
        inputs : dict[str, torch.Tensor]
            What `PromoterCollator` gives for training.
        return_outputs : bool
            Return the model's output too.
        num_items_in_batch : torch.Tensor, optional
            (2,) weight of the rows, and masked letters, of the step over all batches and processes; without it, the
            batch is the step.

        Returns
        -------
        torch.Tensor or tuple
            () loss, times the number of processes, over which gradients are averaged.
        """
        inputs = dict(inputs)
        source_rows = inputs.pop("row", None)
        if self._reconstructs:
            outputs = model(**inputs, output_nucleotide_logits=False)
            losses = torch.stack([outputs.expression_loss, outputs.reconstruction_loss])
        else:
            wanted = {name: inputs[name] for name in ("input_ids", "labels", "row_weights") if name in inputs}
            outputs = model(**wanted, output_nucleotide_logits=False)
            losses = torch.stack([outputs.loss, torch.zeros_like(outputs.loss)])
        if model.training and source_rows is not None:
            self._finite_loss.note(self.state.global_step, source_rows, outputs.row_losses, outputs.loss)
        if num_items_in_batch is not None:
            rows, masked = self._total_weight(inputs), self._num_masked(inputs["masked_nucleotides"]).sum()
            share = torch.stack([rows / num_items_in_batch[0], (masked + 1) / (num_items_in_batch[1] + 1)])
            losses = losses * share * self.accelerator.num_processes
        if model.training:
            self._logged_losses += losses.detach()
        loss = losses[0] + self.model.config.reconstruction_weight * losses[1]
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with both terms of the training loss where the loss is logged."""
        if "loss" in logs:
            self._finite_loss.check()
            losses = self.accelerator.reduce(self._logged_losses, reduction="mean") / max(self._steps_since_log, 1)
            logs["expression_loss"], logs["reconstruction_loss"] = losses.tolist()
            if not self._reconstructs:
                del logs["reconstruction_loss"]
            self._logged_losses.zero_()
            self._steps_since_log = 0
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Predict one batch of a split.

        Returns
        -------
        tuple
            None; what `compute_metrics` takes, each (batch,); labels (batch,).
        """
        inputs = self._prepare_inputs(inputs)
        labels, masked_nucleotides = inputs["labels"], inputs["masked_nucleotides"]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(input_ids=inputs["input_ids"], labels=labels, output_nucleotide_logits=False)
            predictions = {"expression": outputs.logits.flatten().float(), "loss": outputs.row_losses}
            if outputs.variance is not None:
                predictions["variance"] = outputs.variance.flatten()
            if not self._reconstructs:
                return None, predictions, labels
            nucleotide_logits = model(input_ids=inputs["masked_input_ids"]).nucleotide_logits
        masked_nucleotides = masked_nucleotides[:, : nucleotide_logits.shape[1]]
        entropies = F.cross_entropy(nucleotide_logits.transpose(1, 2).float(), masked_nucleotides, reduction="none")
        masked = {"entropy": entropies.sum(dim=1), "masked": self._num_masked(masked_nucleotides)}
        return None, predictions | masked, labels

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict a split, with the averaged weights where there are any."""
        with self._averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def whole_model(self) -> MacaronForExpressionPrediction:
        """Take the model out of what wraps it; FSDP's shards are put together, which all processes do at once.

        Returns
        -------
        MacaronForExpressionPrediction
            To be saved by the main process; under FSDP, that of the others has no weights.
        """
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        return self._assemble(self.accelerator.get_state_dict(self.model))

    def _assemble(self, weights: dict[str, torch.Tensor]) -> MacaronForExpressionPrediction:
        """Make a plain model that holds gathered weights: of a class that FSDP made, the wrong code would be saved."""
        with torch.device("meta"):
            model = MacaronForExpressionPrediction(self.model.config)
        model.load_state_dict(weights, strict=self.args.should_save, assign=True)
        return model

    def _averaged_weights(self) -> AbstractContextManager[None]:
        """Let the model hold the averaged weights for a while."""
        return nullcontext() if self.average is None else self.average.in_use(self.model)

    def _save_checkpoint(self, *args, **kwargs):
        """Save a checkpoint completely or not at all, after a check that the losses are finite.

        An existing folder is left over from an interrupted run, or from one that is resumed from before this step.
        """
        self._finite_loss.check()
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        self._make_places_for_callbacks()
        with whole_or_nothing(folder):
            super()._save_checkpoint(*args, **kwargs)

    def _make_places_for_callbacks(self) -> None:
        """Make a place for each callback in a state that was written without it: the Trainer fails where one lacks."""
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())

    def _save_rng_state(self, output_dir):
        """Save this process's random state, and wait: what is written next vouches for those of all processes."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir=None, state_dict=None):
        """Save the averaged weights and, in training, the raw ones beside them; of shards, the whole model."""
        if self.args.should_save and self.is_fsdp_enabled:
            sharded, self.model = self.model, self._assemble(state_dict)
            try:
                return super()._save(output_dir, state_dict)
            finally:
                self.model = sharded
        if not self.args.should_save or self.average is None or self.average.weights is None:
            return super()._save(output_dir, state_dict)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.average.save_raw(model, self.args.output_dir if output_dir is None else output_dir)
        with self._averaged_weights():
            return super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Load the weights of a checkpoint: average and raw ones, where weights are averaged."""
        check_same_decay(resume_from_checkpoint, self.args.ema_decay)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            model = self.model if model is None else model
            self.average.restore(self.accelerator.unwrap_model(model, keep_torch_compile=False), resume_from_checkpoint)
