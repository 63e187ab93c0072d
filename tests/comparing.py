"""A small benchmark: its LR files and metrics, and its option file."""

from pathlib import Path
from typing import Any

LR_FILES: dict[str, dict[str, Any]] = {
    "png": {"lr_format": "png"},
    "jpeg75": {"lr_format": "jpeg", "lr_quality": 75},
}
METRICS: dict[str, Any] = {
    "psnr_y": {"type": "calculate_psnr", "test_y_channel": True},
    "ssim_y": {"type": "calculate_ssim", "test_y_channel": True},
    "psnr_float": {"type": "calculate_psnr", "protocol": "float"},
    "lr_psnr_y": {"type": "calculate_psnr", "test_y_channel": True, "image": "lr"},
}


def comparison_options(sets: Path, weights: Path) -> dict[str, Any]:
    """Compares the networks in ``weights`` on Set5 and Set14; BSD100 is not there."""
    return {
        "name": "compared",
        "model_type": "BenchmarkModel",
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "test": {
                "name": "benchmark",
                "type": "BenchmarkDataset",
                "dataroot_gt": str(sets),
                "sets": ["Set5", "BSD100", "Set14"],
            }
        },
        "path": {},
        "val": {
            "save_img": False,
            "weights": [str(weights / "*.safetensors")],
            "scales": [1.5, 3],
            "lr_files": LR_FILES,
            "cost_size": 32,
            "metrics": METRICS,
        },
    }
