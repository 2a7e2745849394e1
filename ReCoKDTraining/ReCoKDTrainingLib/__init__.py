"""ReCoKD training: datasets, losses, distiller, trainer and evaluation."""
