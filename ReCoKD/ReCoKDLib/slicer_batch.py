"""``recokd batch`` inside Slicer::

    Slicer --no-main-window --no-splash --python-script .../ReCoKDLib/slicer_batch.py --input DIR ...

Slicer puts what follows the script into ``sys.argv``, and PythonSlicer into ``sys.executable``, so that the workers are
processes without windows. It keeps ``--help`` and ``--version`` for itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The module's folder is on the path in Slicer, but not before Slicer has loaded modules, nor in plain Python.
    folder = str(Path(__file__).resolve().parents[1])
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from ReCoKDLib.cli import main

    sys.exit(main(["batch", *sys.argv[1:]]))
