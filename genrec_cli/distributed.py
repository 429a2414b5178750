"""The device a run works on. The only place that looks at the machine."""

import torch

from genrec_cli.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """``auto`` takes the best there is; a device that was asked for by name and is absent is an error."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"There is no device '{name}'.", hint=f"--device takes {', '.join(DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[kind]:
        raise UsageError(
            f"This machine has no usable {kind} device.",
            hint="--device auto    takes what there is; genrec doctor says why",
        )
    if kind == "cuda":
        # cuDNN plans its attention anew for every shape (0.3 s each), and packed batches are all of other shapes.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device(name)
