"""What is on the machine, and its ceilings: products, memory, launches."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata

from gpu_parts.shared import DEVICE, Rows, Sizes, library_precision, seconds_of


def environment(sizes: Sizes, row: Rows) -> None:
    """Record the machine's GPU, driver and libraries, and its ceilings: products, memory, launches."""
    import torch

    from cafe.kernels.cards import card_of
    from cafe.kernels.choose import triton_fault

    wanted = ("torch", "triton", "transformers", "h5py", "scikit-learn", "typer", "numpy", "torchvision", "pillow")
    versions = {name: _version(name) for name in wanted}
    properties = torch.cuda.get_device_properties(0)
    row(versions=versions, python=sys.version.split()[0], card=torch.cuda.get_device_name(0))
    row(chosen_by=repr(card_of(DEVICE)), memory=properties.total_memory, triton_fault=triton_fault(DEVICE))
    if shutil.which("nvidia-smi"):
        row(nvidia_smi=subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
    side = 64 if sizes.smoke else 8192
    for precision in sizes.precisions:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a = torch.randn(side, side).to(DEVICE, dtype)
        with library_precision(precision):
            seconds = seconds_of(lambda a=a: a @ a, sizes.repeats)
        row(ceiling="product", precision=precision, side=side, tflops=2 * side**3 / seconds / 1e12)
    a = torch.empty((2**12 if sizes.smoke else 2**30) // 4).to(DEVICE)
    seconds = seconds_of(lambda: a.clone(), sizes.repeats)
    row(ceiling="memory", gigabytes_per_second=2 * a.numel() * 4 / seconds / 1e9)
    number = torch.zeros(1).to(DEVICE)
    launches = 10 if sizes.smoke else 2000

    def launch() -> None:
        for _ in range(launches):
            number.add_(1)

    row(ceiling="launch", microseconds=1e6 * seconds_of(launch, sizes.repeats) / launches)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
