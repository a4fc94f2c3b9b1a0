"""How well a base model reads: right answers about things with names that no training text has."""

import random

from sllm.world import plain, scenes

EVAL_BATCH = 20  # prompts answered together


def measure_answers(model, tokenizer, count: int) -> dict[str, float]:
    """`share_right` of each form of question, printed and returned."""
    right = {form: share_right(model, tokenizer, count, form) for form in plain.FORMS}
    shares = ", ".join(f"{form} {share:.0%}" for form, share in right.items())
    print(f"right answers about held-out names: {shares}", flush=True)
    return right


def share_right(model, tokenizer, count: int, form: str) -> float:
    """Share of right answers about things with names that no training text has, in texts of one to four facts. `form`:
    of the questions, one of `plain.FORMS`."""
    import torch

    was_training = model.training
    model.eval()
    draw, asked, right = random.Random(7), [], 0
    for i in range(count):
        about = scenes.scene(draw, min_facts=1 + i % 4, max_facts=1 + i % 4, held_out=True)
        ask, reply = plain.turn(draw, draw.choice(about.facts), form)
        prompt = f"<s>{scenes.text(draw, about)}\n물음: {ask}\n대답:"
        asked.append((prompt, reply.rstrip(",.").removesuffix("입니다")))
    for start in range(0, count, EVAL_BATCH):
        prompts, answers = zip(*asked[start : start + EVAL_BATCH], strict=True)
        batch = tokenizer(
            prompts, add_special_tokens=False, padding_side="left", padding=True,
            return_tensors="pt", return_token_type_ids=False,
        )  # fmt: skip
        with torch.no_grad():
            out = model.generate(**batch, max_new_tokens=16, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        said = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :])
        for text, answer in zip(said, answers, strict=True):
            right += text.strip().startswith(tuple(answer + end for end in ("입니다", ".", ",")))
    model.train(was_training)
    return right / count
