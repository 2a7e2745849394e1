"""Where training cases come from.

:class:`Dataset` is the seam: cases with one set of classes and channels. Each file here is a source that finds its
cases and says how to read them; :func:`open_datasets` tells the sources apart and mixes them.
"""

from __future__ import annotations

from .case import Case
from .dataset import Dataset, Task
from .loading import load_case
from .nnunet_raw import NnunetRawDataset
from .opening import open_dataset, open_datasets
from .options import SourceOptions
from .split import Split, held_out_cases, read_split

__all__ = [
    "Case",
    "Dataset",
    "NnunetRawDataset",
    "SourceOptions",
    "Split",
    "Task",
    "held_out_cases",
    "load_case",
    "open_dataset",
    "open_datasets",
    "read_split",
]
