"""What runs a network on tiles: PyTorch, OpenVINO or ONNX Runtime behind one seam.

An engine is called with (batch, channel, x, y, z) float32 tiles on the CPU and gives (batch, head, x, y, z) logits.
PyTorch is always there and is what the others are checked against; training and evaluation use nothing else.
"""

from __future__ import annotations
