"""TRL as unsloth patches it on a GPU; the import that UNSLOTH_ALLOW_CPU makes work leaves it as it is."""

import os
from functools import cache

from sllm.train import with_unsloth  # noqa: F401


@cache
def trl():
    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    from unsloth.models.rl import PatchFastRL
    from unsloth.trainer import _patch_trl_trainer

    PatchFastRL()
    _patch_trl_trainer()
    os.environ["UNSLOTH_ALLOW_CPU"] = "1"
    import trl

    assert "Unsloth" in trl.SFTTrainer.__name__
    assert "Unsloth" in trl.DPOTrainer.__name__
    return trl
