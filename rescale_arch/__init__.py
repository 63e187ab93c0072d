"""Image rescaling networks: tensors in, tensors out.

Public tensors are RGB, NCHW, float in [0, 1]. Nothing in this package reads a file, an option or a
training setting, and importing it costs no more than importing PyTorch.
"""

from rescale_arch.aidn_arch import AIDN
from rescale_arch.bicubic import imresize
from rescale_arch.scales import MAX_SCALE, lr_size, scale_pair
from rescale_arch.vqgan_arch import VQGAN
from rescale_arch.vqir_arch import VQIR

__all__ = ["AIDN", "MAX_SCALE", "VQGAN", "VQIR", "imresize", "lr_size", "scale_pair"]
