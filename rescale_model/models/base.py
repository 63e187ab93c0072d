"""The base class of rescaling models: what BasicSR's runners call to train, save and validate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn

from rescale_arch.compiling import compile_for_training
from rescale_arch.memory_format import channels_last
from rescale_data.unit_range import to_unit_range
from rescale_data.weight_file import fingerprint
from rescale_model.device import autocast, check_gpus, warn_of_slow_bfloat16
from rescale_model.distributed import agree_on_seed, broadcast_buffers, distribute
from rescale_model.evaluation.round_trip import EvaluatedImage, evaluate_round_trip
from rescale_model.evaluation.validation import Evaluation
from rescale_model.evaluation.validator import Validator, evaluation_mode
from rescale_model.models.base_options import (
    FileOptions,
    PathOptions,
    RescalingOptions,
    TrainOptions,
    ValOptions,
)
from rescale_model.training.checkpoints import load_network, read_network, save_networks
from rescale_model.training.moving_average import move_average_network
from rescale_model.training.optimizers import build_optimizer
from rescale_model.training.random_state import same_randomness
from rescale_model.training.sampler import DataPosition
from rescale_model.training.step import TrainingStep
from rescale_model.training.step_guard import StepGuard
from rescale_model.training.stop_signal import Interrupted, StopSignal
from rescale_model.training.training_state import TrainingState


class RescalingModel(SRModel, ABC):
    """BasicSR's ``SRModel`` for networks that compute their LR images themselves.

    A subclass defines the training (:meth:`build_losses`, :meth:`losses`) and the validation
    (:meth:`validation_cases`, :meth:`round_trip`). Batches contain ``gt`` and ``gt_path``. Most of
    the work is done by the classes in :mod:`rescale_model.training` and
    :mod:`rescale_model.evaluation`; the methods here are called by BasicSR's runners and by
    subclasses.

    A run that was stopped, by a signal or by ``kill -9``, and resumed with ``rescale train`` ends
    with the same weights as an uninterrupted one (on a CPU bit for bit): training states also
    contain the random states of all ranks and the position in the data.

    A step with losses that are not finite does not change the weights: it is skipped, or the run
    saves the previous state and stops. This check does not make the GPU wait, unless
    ``skip_non_finite`` is set, which also checks the gradients.

    Subclasses with options of their own declare them as ``OPTIONS``; see
    :class:`~rescale_model.models.base_options.RescalingOptions`.

    Attributes:
        evaluated: names of the images that :meth:`round_trip` returns.
        data_position: position of the run in its data; None if BasicSR's own runner trains.
        stop: queried after every step for a signal; None if BasicSR's own runner trains.
        step: computes gradients and updates the weights; in training only.
        guard: handles steps that are not finite; in training only.
        state: the training state that is saved for resuming; in training only.
        evaluation: the ``val`` section of the options; None if there is none.
        effort: how LR images are optimized in validation.
        fingerprint: fingerprint of the validated weights.
        metric_results: results of the last validation on rank 0, as ``Validator.means``.
        best_metric_results: the best results so far, as ``Validator.best``.
    """

    OPTIONS: ClassVar[type[FileOptions]] = RescalingOptions[TrainOptions, ValOptions, PathOptions]
    evaluated: Collection[str] = ("hr", "lr", "bicubic")
    data_position: DataPosition | None = None
    stop: StopSignal | None = None

    def __init__(self, opt: dict[str, Any]) -> None:
        self.OPTIONS.complete(opt)
        agree_on_seed(opt)
        check_gpus(opt)
        super().__init__(opt)
        warn_of_slow_bfloat16(opt, self.device)
        self.evaluation = None
        if opt.get("val"):
            self.evaluation = Evaluation(opt["val"], self.evaluated)
            self.effort = self.evaluation.effort(opt["val"].get("effort", 0))
            self.validator = Validator(opt, self.evaluation)
            self.validation_cases()  # reports wrong options before the first validation

    # training ---------------------------------------------------------------------------------

    @abstractmethod
    def build_losses(self) -> None:
        """Builds the losses from ``opt['train']``."""

    @abstractmethod
    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The weighted losses of the current batch; their sum is minimized."""

    def init_training_settings(self) -> None:
        """Sets up the moving average, losses, optimizers and schedulers."""
        self.net_g.train()
        train_opt = self.opt["train"]
        self.ema_decay = train_opt.get("ema_decay", 0)
        if self.ema_decay > 0:
            self._init_average()
        self.build_losses()
        if train_opt.get("compile"):
            compile_for_training(self.get_bare_model(self.net_g))
        self.setup_optimizers()
        self.setup_schedulers()
        nets = [self.net_g, self.net_d] if hasattr(self, "net_d") else [self.net_g]
        skip = bool(train_opt.get("skip_non_finite"))
        self.step = TrainingStep(nets, self.optimizers, check_gradients=skip)
        self.guard = StepGuard(nets, self.optimizers, self.schedulers, skip=skip)
        self.state = TrainingState(self.opt, self.optimizers, self.schedulers, self.guard)

    def _init_average(self) -> None:
        get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
        self.net_g_ema = channels_last(build_network(self.opt["network_g"]).to(self.device))
        self.model_ema(0)  # entries that are missing in the file are those of net_g
        path = self.opt["path"].get("pretrain_network_g")
        if path is not None:
            strict = self.opt["path"].get("strict_load_g", True)
            self.load_network(self.net_g_ema, path, strict, "params_ema")
        self.net_g_ema.eval().requires_grad_(False)

    def build_loss(self, name: str) -> nn.Module:
        """Builds the loss of the option ``train: name``.

        Raises:
            ValueError: the option is missing.
        """
        loss_opt = self.opt["train"].get(name)
        if not loss_opt:
            raise RescaleError(f"option train: {name} is missing: {type(self).__name__} needs it")
        loss: nn.Module = build_loss(loss_opt).to(self.device)
        return loss

    def setup_optimizers(self) -> None:
        """Sets up one optimizer for all parameters that are trained."""
        trained = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self.add_optimizer("optim_g", trained)

    def add_optimizer(self, name: str, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Builds the optimizer of the option ``train: name`` and adds it to the training step."""
        optimizer = build_optimizer(name, self.opt["train"][name], parameters)
        self.optimizers.append(optimizer)
        return optimizer

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Moves a batch to the device.

        Args:
            data: ``gt``, HR images (B, 3, H, W), float in [0, 1] or uint8; and ``gt_path``, their
                names for messages.
        """
        gt = data["gt"].to(self.device, non_blocking=True)
        self.gt = to_unit_range(gt.contiguous(memory_format=torch.channels_last))
        self.gt_path = list(data.get("gt_path", ()))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begins a step, or saves and exits if a signal was received.

        Raises:
            SystemExit: with 128 + the number of the signal; the state after the previous step is
                saved.
        """
        if self.stop is not None and (number := self.stop.agreed()):
            self._leave(current_iter - 1, number)
        self.guard.remember()
        super().update_learning_rate(current_iter, warmup_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        """Performs a training step; if its losses are not finite, the weights do not change.

        Raises:
            ValueError: the losses are not finite, and ``skip_non_finite`` is not set.
        """
        self.step.begin()
        self.backward(current_iter)
        if self.step.finish():
            self.after_step(current_iter)
        else:
            note, images = self.step_note(), self.gt_path
            self.guard.reject(current_iter, note, self.step.logged, images, self._save_once)
        if self.data_position is not None:
            self.data_position.samples += len(self.gt) * self.opt["world_size"]

    def backward(self, current_iter: int) -> None:
        """Computes the gradients of the step, including those for a second optimizer."""
        self.step.add_gradients(self.losses(current_iter))

    def step_note(self) -> str:
        """Information about the current step for messages, besides its iteration; may be empty."""
        return ""

    def after_step(self, current_iter: int) -> None:
        """Called after the weights have been updated."""
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the ranks.

        They are reduced only when this is called, since every reduction synchronizes with the GPU.
        """
        log: dict[str, float] = self.reduce_loss_dict(self.step.logged)
        if self.opt["train"].get("skip_non_finite"):
            log["skipped"] = self.guard.skipped
        return log

    def _save_once(self, iteration: int) -> None:
        """Saves the state after ``iteration`` unless it is already saved."""
        if iteration > self.state.saved_iter:
            self.save(self.data_position.epoch if self.data_position is not None else 0, iteration)

    def _leave(self, iteration: int, number: int) -> None:
        self._save_once(iteration)
        get_root_logger().info(
            f"Stopped by a signal; --auto_resume continues from iteration {iteration}."
        )
        raise SystemExit(128 + number)

    def model_ema(self, decay: float = 0.999) -> None:
        """Updates the moving average of the weights; batch statistics are copied."""
        move_average_network(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    def autocast(self, section: str) -> torch.autocast:
        """The precision of the section ``section``; see :func:`~rescale_model.device.autocast`."""
        return autocast(self.device, section, self.opt[section])

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Moves ``net`` to the device and wraps it for distributed training."""
        net = channels_last(net.to(self.device))
        return distribute(net, self.device, self.opt) if self.opt["dist"] else net

    # files ------------------------------------------------------------------------------------

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Loads a weights file by BasicSR or the authors, or a safetensors file.

        See ``read_network`` and ``load_network`` in :mod:`rescale_model.training.checkpoints`.
        """
        weights = read_network(load_path, param_key)
        load_network(self.get_bare_model(net), weights, load_path, strict=strict)

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int,
        param_key: str | list[str] = "params",
    ) -> None:
        """Saves weights as BasicSR does, but atomically and with the network's ``config``."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        bare = {key: self.get_bare_model(one) for key, one in zip(keys, nets, strict=True)}
        save_networks(bare, self.opt, net_label, current_iter)

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Saves the training state atomically; all ranks must call it."""
        if current_iter != -1:
            self.state.save(epoch, current_iter, self.training_state())

    def training_state(self) -> dict[str, Any]:
        """The entries of a training state that BasicSR's does not have; all ranks must call it."""
        return self.state.collect(self.data_position)

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Resumes from a training state.

        Raises:
            ValueError: it does not match the options.
        """
        self.state.restore(resume_state)
        if self.evaluation is not None:
            self.validator.restore_best(self.state.saved_iter)

    # validation -------------------------------------------------------------------------------

    @abstractmethod
    def validation_cases(self) -> dict[str, Any]:
        """The cases in which every image is validated: label in files and tables -> value."""

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: Any
    ) -> dict[str, EvaluatedImage]:
        """Downscales and restores an image.

        Args:
            net: the network, in evaluation mode.
            name: name of the image, for messages.
            gt: (1, 3, H, W).
            case: a value of :meth:`validation_cases`.

        Returns:
            An image for each name in ``evaluated``, the values of ``val: metrics: ..: image``.
        """
        assert self.evaluation is not None
        tile, stored = self.opt["val"].get("tile"), self.evaluation.stored
        return evaluate_round_trip(net, name, gt, case, stored, tile, self.fingerprint, self.effort)

    def validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Validates the images of a dataset in every case, distributed over the ranks."""
        if self.evaluation is None:
            raise RescaleError("option val is missing")
        if self.is_train:  # BasicSR passes total_iter + 1 at the end
            current_iter = min(int(current_iter), int(self.opt["train"]["total_iter"]))
        try:
            with same_randomness():
                self._validate(dataloader.dataset, current_iter, tb_logger, save_img)
        except Interrupted as interrupted:
            self._leave(int(current_iter), interrupted.number)

    def _validate(
        self, dataset: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        def round_trip(name: str, gt: Tensor, case: Any) -> dict[str, EvaluatedImage]:
            if self.stop is not None:
                self.stop.interrupt()
            return self.round_trip(net, name, to_unit_range(gt.to(self.device)), case)

        nets = [self.get_bare_model(self.net_g)]
        if hasattr(self, "net_g_ema"):
            nets.append(self.net_g_ema)
        broadcast_buffers(nets)  # those that rank 0 saves; batch statistics differ between ranks
        self.fingerprint = fingerprint(nets[-1].state_dict())
        compiled = self.is_train and bool(self.opt["train"].get("compile"))
        with evaluation_mode(nets[-1], self.autocast("val"), compiled=compiled) as net:
            self.validator.validate(
                dataset, self.validation_cases(), round_trip, current_iter, tb_logger, save_img
            )
        self.metric_results = self.validator.means
        self.best_metric_results = self.validator.best
