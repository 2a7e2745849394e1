"""Reading other programs' checkpoints, which are pickles, without running anything that they hold."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PackageError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as plain data: tensors, numbers, strings, lists and dictionaries, nothing else.

    A ``.pth`` file is a pickle, which could run any program. PyTorch's restricted reader is used, which knows no
    classes but those; NumPy's numbers, which nnU-Net logs, are allowed besides.

    Raises:
        PackageError: The file is damaged, or refers to anything else.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"(?:GLOBAL|type|class) ([\w.]+)", str(error))
        what = f"an object ({reason[1]})" if reason else "an object"
        raise PackageError(
            f"The checkpoint {path} is damaged or holds {what} other than plain data, which could run any "
            "program when it is read. It was not read. Have it saved again with plain weights, or ask who made it."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise PackageError(f"The checkpoint {path} is damaged ({error}). Restore it.") from error
    if not isinstance(content, dict):
        raise PackageError(f"The checkpoint {path} holds no dictionary. Choose another file.")
    return content


def unwrapped(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what torch.compile and DistributedDataParallel put before the names."""
    return {re.sub(r"^(?:module\.|_orig_mod\.)+", "", str(key)): tensor for key, tensor in weights.items()}


def _numpy_numbers() -> list[Any]:
    """What unpickling NumPy's numbers calls: one function, which goes by two names, and the data types."""
    import numpy as np

    unpickle: Any = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, *{type(np.dtype(code)) for code in ("?", "i4", "i8", "f2", "f4", "f8")}]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):

        def scalar(*arguments: Any) -> Any:
            return unpickle(*arguments)

        # PyTorch's reader goes by these.
        scalar.__module__, scalar.__qualname__ = module, "scalar"
        allowed.append(scalar)
    return allowed
