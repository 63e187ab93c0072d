"""Image rescaling networks: tensors in, tensors out.

Public tensors are RGB, NCHW, float in [0, 1]. This package does not access files, options or
training settings, and importing it takes no longer than importing PyTorch.
"""

from rescale_arch.aidn.architecture import ARCHITECTURE as _AIDN
from rescale_arch.aidn.network import AIDN
from rescale_arch.architecture import register_architecture
from rescale_arch.bicubic import imresize
from rescale_arch.scales import MAX_SCALE, lr_size, scale_pair
from rescale_arch.vqgan.architecture import ARCHITECTURE as _VQGAN
from rescale_arch.vqgan.network import VQGAN
from rescale_arch.vqir.architecture import ARCHITECTURES as _VQIR
from rescale_arch.vqir.network import VQIR

__all__ = ["AIDN", "MAX_SCALE", "VQGAN", "VQIR", "imresize", "lr_size", "scale_pair"]

for _architecture in (_AIDN, _VQGAN, *_VQIR):
    register_architecture(_architecture)
