"""What all rescaling models share: how BasicSR's runners train, save and validate them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import rescale_compat  # noqa: F401  first: it lets basicsr import
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
from rescale_model.training.optimizers import optimizer_class
from rescale_model.training.random_state import same_randomness
from rescale_model.training.sampler import DataPosition
from rescale_model.training.step import TrainingStep
from rescale_model.training.step_guard import StepGuard
from rescale_model.training.stop_signal import Interrupted, StopSignal
from rescale_model.training.training_state import TrainingState


class RescalingModel(SRModel, ABC):
    """BasicSR's ``SRModel`` for networks that make their LR image themselves.

    A subclass defines the training (:meth:`build_losses`, :meth:`losses`) and what is validated
    (:meth:`validation_cases`, :meth:`round_trip`). Batches hold ``gt`` and ``gt_path``. The work is
    done by the parts in :mod:`rescale_model.training` and :mod:`rescale_model.evaluation`; the
    methods here are those that BasicSR's runners and subclasses call.

    A run that was stopped, by a signal or by ``kill -9``, and resumed through ``rescale train``
    ends with the weights of one that was not: training states hold the random states of all ranks
    and the place in the data, too. On a CPU that is exact to the bit.

    A step whose losses are not finite does not reach the weights: it is left out, or the run stops
    with the state of before saved. A GPU does not wait for that check, which is of the losses; with
    ``skip_non_finite`` it does, since then gradients are checked as well.

    Options are declared as ``OPTIONS``, by a subclass with its own for these:
    :class:`~rescale_model.models.base_options.RescalingOptions`.

    Attributes:
        evaluated: the names that :meth:`round_trip` gives images under.
        data_position: where the run is in its data; None where BasicSR's own runner trains.
        stop: asked after every step whether to leave; None likewise.
        step: the forward and backward pass and the update of the weights; in training only.
        guard: handles steps that are not finite; in training only.
        state: what is saved for resuming; in training only.
        evaluation: the section ``val`` of the options; None without one.
        effort: how LR images are optimised in validation.
        fingerprint: of the weights that are validated.
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
            self.validation_cases()  # reports wrong options now, not at the first validation

    # training ---------------------------------------------------------------------------------

    @abstractmethod
    def build_losses(self) -> None:
        """Builds the losses from ``opt['train']``."""

    @abstractmethod
    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The weighted losses of the present batch, which are summed and minimised."""

    def init_training_settings(self) -> None:
        """Sets up EMA, losses, optimisers and schedulers."""
        self.net_g.train()
        train_opt = self.opt["train"]
        self.ema_decay = train_opt.get("ema_decay", 0)
        if self.ema_decay > 0:
            get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            self.net_g_ema = channels_last(build_network(self.opt["network_g"]).to(self.device))
            self.model_ema(0)  # a partial load leaves the other entries as in net_g
            path = self.opt["path"].get("pretrain_network_g")
            if path is not None:
                strict = self.opt["path"].get("strict_load_g", True)
                self.load_network(self.net_g_ema, path, strict, "params_ema")
            self.net_g_ema.eval().requires_grad_(False)
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
        """One optimiser over all parameters that are trained."""
        trained = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self._add_optimizer("optim_g", trained)

    def build_discriminator(self) -> None:
        """Builds ``net_d`` as the option ``network_d`` says, for models that train one."""
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        path = self.opt["path"]
        if path.get("pretrain_network_d"):
            strict, key = path.get("strict_load_d", True), path.get("param_key_d", "params")
            self.load_network(self.net_d, path["pretrain_network_d"], strict, key)
        self.net_d.train()

    def setup_discriminator_optimizer(self) -> None:
        """The second optimiser, over the discriminator."""
        self.optimizer_d = self._add_optimizer("optim_d", list(self.net_d.parameters()))

    def _add_optimizer(self, name: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
        options = dict(self.opt["train"][name])
        try:
            optimizer = self.get_optimizer(options.pop("type"), parameters, **options)
        except ValueError as error:  # PyTorch checks the ranges of its arguments
            raise RescaleError(f"option train: {name}: {error}") from error
        self.optimizers.append(optimizer)
        return optimizer

    def get_optimizer(
        self, optim_type: str, params: list[Tensor], lr: float, **kwargs: Any
    ) -> torch.optim.Optimizer:
        """See :func:`~rescale_model.training.optimizers.optimizer_class`."""
        return optimizer_class(optim_type)(params, lr=lr, **kwargs)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Takes a batch: ``gt``, HR images, and their names for messages, ``gt_path``.

        ``gt`` is (B, 3, H, W), float in [0, 1] or uint8.
        """
        gt = data["gt"].to(self.device, non_blocking=True)
        self.gt = to_unit_range(gt.contiguous(memory_format=torch.channels_last))
        self.gt_path = list(data.get("gt_path", ()))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begins a step, or leaves if a signal asks for it.

        Raises:
            SystemExit: 128 + the signal's number; what the steps before have trained is saved.
        """
        if self.stop is not None and (number := self.stop.agreed()):
            self._leave(current_iter - 1, number)
        self.guard.remember()
        super().update_learning_rate(current_iter, warmup_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        """One training step, whole or not at all.

        Raises:
            ValueError: the losses are not finite, and the options do not ask to skip such steps.
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
        """Computes the gradients of the step, also those for a second optimiser."""
        self.add_gradients(self.losses(current_iter))

    def add_gradients(self, losses: Mapping[str, Tensor]) -> None:
        """Adds the gradients of the sum of ``losses``, which are logged and checked."""
        self.step.add_gradients(losses)

    def step_note(self) -> str:
        """What messages about the present step mention besides its iteration; may be empty."""
        return ""

    def after_step(self, current_iter: int) -> None:
        """What follows once the weights have changed."""
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the ranks.

        Computed when asked for: a GPU would have to wait for it in every step.
        """
        log: dict[str, float] = self.reduce_loss_dict(self.step.logged)
        if self.opt["train"].get("skip_non_finite"):
            log["skipped"] = self.guard.skipped
        return log

    def _save_once(self, iteration: int) -> None:
        """Saves the state after ``iteration``, unless that is done already."""
        if iteration > self.state.saved_iter:
            self.save(self.data_position.epoch if self.data_position is not None else 0, iteration)

    def _leave(self, iteration: int, number: int) -> None:
        self._save_once(iteration)
        get_root_logger().info(f"Left by a signal; --auto_resume goes on from {iteration}.")
        raise SystemExit(128 + number)

    def model_ema(self, decay: float = 0.999) -> None:
        """Moves the average network towards the trained one; batch statistics are copied."""
        move_average_network(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    def autocast(self, section: str) -> torch.autocast:
        """The precision of ``opt[section]``; see :func:`~rescale_model.device.autocast`."""
        return autocast(self.device, section, self.opt[section])

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Moves ``net`` to the device and wraps it for distributed training."""
        net = channels_last(net.to(self.device))
        return distribute(net, self.device, self.opt) if self.opt["dist"] else net

    # files ------------------------------------------------------------------------------------

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Loads BasicSR's, the authors' or safetensors weights.

        See ``read_network`` and ``load_network`` of :mod:`rescale_model.training.checkpoints`.
        """
        weights = self.read_network(load_path, param_key)
        load_network(self.get_bare_model(net), weights, load_path, strict=strict)

    def read_network(self, load_path: str, param_key: str | None = "params") -> dict[str, Tensor]:
        """See :func:`~rescale_model.training.checkpoints.read_network`."""
        return read_network(load_path, param_key)

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int,
        param_key: str | list[str] = "params",
    ) -> None:
        """Saves as BasicSR does, whole or not at all, and the network's keywords as ``config``."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        options = self.opt[net_label.replace("net_", "network_")]
        config = {key: value for key, value in options.items() if key != "type"}
        bare = {key: self.get_bare_model(one) for key, one in zip(keys, nets, strict=True)}
        label = "latest" if current_iter == -1 else current_iter
        folder = self.opt["path"]["models"]
        save_networks(bare, config, os.path.join(folder, f"{net_label}_{label}.pth"))

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Saves what resuming needs, whole or not at all; all ranks take part."""
        if current_iter != -1:
            self.state.save(epoch, current_iter, self.training_state())

    def training_state(self) -> dict[str, Any]:
        """What a training state holds beyond BasicSR's; all ranks take part."""
        return self.state.collect(self.data_position)

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Goes on from a training state; a ValueError says if it does not fit."""
        self.state.restore(resume_state)
        if self.evaluation is not None:
            self.validator.restore_best(self.state.saved_iter)

    # validation -------------------------------------------------------------------------------

    @abstractmethod
    def validation_cases(self) -> dict[str, Any]:
        """What every image is validated at: a label for files and tables, and its meaning."""

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: Any
    ) -> dict[str, EvaluatedImage]:
        """Downscales and restores one image.

        Args:
            net: the network, in evaluation mode.
            name: of the image, for messages.
            gt: (1, 3, H, W).
            case: a value of :meth:`validation_cases`.

        Returns:
            Images under the names that ``val: metrics: ..: image`` takes, those of ``evaluated``.
        """
        assert self.evaluation is not None
        tile, stored = self.opt["val"].get("tile"), self.evaluation.stored
        return evaluate_round_trip(net, name, gt, case, stored, tile, self.fingerprint, self.effort)

    def validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Validates every image of the data set at every case; the ranks share the images out."""
        if self.evaluation is None:
            raise RescaleError("option val is missing")
        if self.is_train:  # BasicSR counts on when the last iteration is over
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
        broadcast_buffers(nets)  # rank 0 saves its own; the others' are of their own batches
        compiled = self.is_train and bool(self.opt["train"].get("compile"))
        with evaluation_mode(nets[-1], self.autocast("val"), compiled=compiled) as net:
            self.fingerprint = fingerprint(net.state_dict())
            cases = self.validation_cases()
            rows = self.validator.evaluate(dataset, cases, round_trip, current_iter, save_img)
        if self.opt["rank"] == 0:
            self.validator.report(dataset.opt["name"], rows, current_iter, tb_logger)

    @property
    def metric_results(self) -> dict[str, float]:
        """``<metric>_<case>`` -> mean over the images of the last validation, on rank 0."""
        return self.validator.means

    @property
    def best_metric_results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Data set -> ``<metric>_<case>`` -> the best value so far, as BasicSR has it."""
        return self.validator.best
