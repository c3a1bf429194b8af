"""Devices of torch that rows can be searched on, and what is wrong where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["are_same_device", "require_device", "undisturbed"]

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


@contextmanager
def undisturbed(device: str) -> Iterator[None]:
    """Where tensors are of the types asked for, and no gradients are kept, whatever the thread has set."""
    torch = import_module("torch")
    with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False):
        yield


def are_same_device(one: str, other: str) -> bool:
    """Whether two names are of one device of torch: "cuda" is one of "cuda:0", "cuda:1", ..."""
    torch = import_module("torch")
    return one == other or bool(torch.empty(0, device=one).device == torch.empty(0, device=other).device)
