"""Models from and to other programs: nnU-Net, MONAI, ONNX."""

from __future__ import annotations
