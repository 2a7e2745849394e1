"""The folder that nnU-Net looks into for our trainer.

nnU-Net imports every module of the folders that its variable ``nnUNet_extTrainer`` names, each by its bare name. So
there is one module here, with a name that nothing else has, and it can't use relative imports. What it needs lies
outside: what nnU-Net has imported from here it forgets again, so that nothing of it can be sent to a process.

The folder is printed by

    python -c "import ReCoKDTrainingLib.nnunet_trainer as t; print(t.__path__[0])"
"""

from __future__ import annotations
