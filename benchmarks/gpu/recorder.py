"""Runs a training script as it is, and keeps what its model was fed: rows of token ids and which are supervised.

python benchmarks/gpu/recorder.py FILE train_LoRA_SFT.py --trainset_path rows.jsonl …
"""

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))


def rows_of(batch: dict) -> list[list]:
    """The rows of a batch, padded or flattened, as [ids, supervised positions]."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    rows = []
    for number, (row, wanted) in enumerate(zip(ids, labels, strict=True)):
        keep = range(len(row)) if mask is None else mask[number].nonzero()[:, 0].tolist()
        # a flattened row begins wherever positions restart at 0
        starts = [at for at in keep if positions is not None and positions[number, at] == 0] or [keep[0]]
        for start, end in zip(starts, [*starts[1:], keep[-1] + 1], strict=True):
            supervised = [at - start for at in range(start, end) if wanted[at] >= 0]
            rows.append([row[start:end], supervised])
    return rows


def main(file: str, script: str, *flags: str) -> None:
    from sllm import cli
    from sllm.train import callbacks

    sys.argv = [script, *flags]
    module = importlib.import_module(script.removesuffix(".py"))
    own = callbacks.build

    def with_recorder(*arguments, **named) -> list:
        from transformers import TrainerCallback

        class Recorder(TrainerCallback):
            def on_train_begin(self, args, state, control, model=None, **kwargs):
                self.rows: list = []
                self.hook = model.register_forward_pre_hook(self.keep, with_kwargs=True)

            def keep(self, module, positional, batch) -> None:
                if "labels" in batch and module.training:
                    self.rows += rows_of(batch)

            def on_train_end(self, args, state, control, **kwargs):
                self.hook.remove()
                Path(file).write_text(json.dumps(self.rows))

        return [*own(*arguments, **named), Recorder()]

    callbacks.build = with_recorder
    cli.run(module.main, module.build_parser())


if __name__ == "__main__":
    main(*sys.argv[1:])
