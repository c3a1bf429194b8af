"""Devices of torch that rows can be searched on, and what is wrong where there is none."""

from importlib import import_module

__all__ = ["require_device"]

#: Characters of torch's message that are told: it may list all it was built with.
MOST_WORDS = 120


def require_device(device: object) -> str:
    """The name of a device that torch can compute on in double precision.

    Raises
    ------
    TypeError
        If it is no name.
    ImportError
        If torch is not installed.
    ValueError
        If torch has no such device here.
    """
    if not isinstance(device, str):
        raise TypeError(f"device: expected a name such as 'cuda', or None for the CPU, got {device!r}")
    try:
        torch = import_module("torch")
    except ImportError as exc:
        raise ImportError(
            f"device: {device!r} needs torch, which cannot be imported ({exc}); install it with "
            '"pip install torch", or give device=None for the CPU'
        ) from exc
    try:
        with torch.inference_mode():
            one = float(torch.ones(1, dtype=torch.float64, device=device).cpu())
    except Exception as exc:  # each backend has its own
        why = (str(exc).strip() or type(exc).__name__).splitlines()[0][:MOST_WORDS]
        raise ValueError(
            f"device: expected one on which torch {torch.__version__} can compute in double precision, got {device!r} "
            f"({why}); install a build of torch for it, or give device=None for the CPU"
        ) from exc
    if one != 1.0:
        raise ValueError(f"device: expected one that computes, got {device!r}; give device=None for the CPU")
    return str(torch.device(device))
