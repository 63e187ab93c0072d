"""Optimization of LR images for the network that restores them."""

from rescale_arch.lr_optimization.optimize import Channel, optimize_lr

__all__ = ["Channel", "optimize_lr"]
