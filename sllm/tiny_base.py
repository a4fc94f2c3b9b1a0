"""Build the small base model that demo and tests use, from scratch: from plain texts about the small world (sllm/world)
and the bare texts of `sample_data/`.

A Llama of about 4 M parameters with a byte-level BPE tokenizer, which carries the whole pipeline through the same code
and the same engine as an 8B model. It learns to read: what its dialogues ask can only be answered from the passage
above them. It never sees the form of a task, and none of the answers that SFT trains on.

    python -m sllm.tiny_base --output_dir outputs/tiny_base --steps 600
"""

import json
import random
import time
from pathlib import Path

from sllm import checkpoint, cli, tasks
from sllm.world import plain, scenes

STATE = "training_state.pt"  # of a build that is not finished
SAVE_STEPS = 500
TOKENS_PER_STEP = 2048
# Until which share of the steps: facts of a thing at most, and tokens of a row. Answers to short texts come first; what
# a model that reads them learns next is where to look in longer ones.
PHASES = ((0.1, 1, 128), (0.4, 2, 128), (0.6, 3, 256), (0.8, 4, 256), (1.0, 4, 512))
SAMPLES_SHARE = 0.1  # of the documents: sample texts; the rest is about the world
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def build_parser():
    p = cli.parser(__doc__, "-m sllm.tiny_base")
    p.add_argument("--sample_data", default="sample_data", help="folder whose .jsonl rows are the corpus")
    p.add_argument("--steps", type=cli.positive_int, default=7000, help="optimizer steps of 2,048 tokens")
    p.add_argument("--vocab_size", type=cli.positive_int, default=4096, help="tokens, specials included")
    p.add_argument("--hidden_size", type=cli.integer(64, 8192), default=256, help="width; 64 a head")
    p.add_argument("--layers", type=cli.positive_int, default=4, help="decoder layers")
    p.add_argument("--seed", type=cli.seed, default=42, help="weights and texts")
    cli.add_output_flags(p, "outputs/tiny_base", resume="continue a build that was stopped")
    return p


def corpus(folder: str | Path, only: set[str] | None = None) -> list[str]:
    """The bare texts of the samples, of the tasks in `only` or of all, each once, in a fixed order: all but the answers
    of the task rows."""
    texts: dict[str, None] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if only is not None and row["task"] not in only:
                continue
            contents = [row[key] for key in ("system_prompt", "user_content") if key in row]
            for key in ("prompt", "chosen", "rejected"):
                contents += [message["content"] for message in row.get(key, [])]
            texts.update(dict.fromkeys(contents))
    return list(texts)


def tokenizer_texts(samples: list[str], seed: int) -> list[str]:
    """What the tokenizer is trained on: the samples, and 4,000 texts about the world."""
    return samples + [plain.document(random.Random(f"{seed} tokenizer {i}")) for i in range(4000)]


def train_tokenizer(texts: list[str], vocab_size: int):
    """Byte-level BPE with Llama 3's split, BOS in front of plain text, and ChatML's two turn tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    split = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    bpe = Tokenizer(models.BPE())
    splitter = pre_tokenizers.Split(Regex(split), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=2048
    )


def main(args) -> dict:
    from sllm import chat

    checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    checkpoint.require_distinct(args.output_dir, args.sample_data)
    texts = corpus(args.sample_data)
    if not texts:
        raise cli.InputError(f"{args.sample_data} has no .jsonl rows")
    state_path = Path(args.output_dir) / STATE
    if args.resume and not state_path.exists():
        raise cli.InputError(f"--resume: {state_path} does not exist; start without it")
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)

    import torch

    started = time.monotonic()
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(tokenizer_texts(texts, args.seed), args.vocab_size)
    model = new_model(tokenizer, args.hidden_size, args.layers)
    parameters = sum(weight.numel() for weight in model.parameters())
    optimizers = _optimizers(model)
    batches = Batches(tokenizer, texts, args.seed, args.steps)
    first_step = 1
    if args.resume:
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        batches.documents, batches.buffer, first_step = state["documents"], state["buffer"], state["step"] + 1
    rates = [group["initial_lr"] for optimizer in optimizers for group in optimizer.param_groups]
    model.train()
    loss_sum, since, clock = 0.0, 0, time.monotonic()
    for step in range(first_step, args.steps + 1):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * _schedule(step, args.steps)
        ids = torch.tensor(batches.next(step))  # (rows, length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        loss_sum, since = loss_sum + loss.item(), since + 1
        if step % 100 == 0 or step == args.steps:
            rate = since * TOKENS_PER_STEP / (time.monotonic() - clock)
            print(
                f"step {step:,}/{args.steps:,} | loss {loss_sum / since:.3f} | {rate:,.0f} tok/s | "
                f"{(args.steps - step) * TOKENS_PER_STEP / rate / 60:.0f} min left", flush=True,
            )  # fmt: skip
            mean_loss, loss_sum, since, clock = loss_sum / since, 0.0, 0, time.monotonic()
        if step % SAVE_STEPS == 0 and step < args.steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
            state |= {"documents": batches.documents, "buffer": batches.buffer}
            torch.save(state, state_path.with_suffix(".new"))
            state_path.with_suffix(".new").replace(state_path)
            print(f"answers to held-out names: {answers(model, tokenizer, 60):.0%} right", flush=True)
            clock = time.monotonic()

    model.to(torch.bfloat16).eval()
    right = answers(model, tokenizer, 200)
    print(f"answers to held-out names: {right:.0%} right")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    state_path.unlink(missing_ok=True)
    chat.set_chat_template(tokenizer)  # for the probe only: a base model is shipped without a template
    metrics = {"parameters": parameters, "loss": round(mean_loss, 4), "steps": args.steps, "tokens": len(tokenizer)}
    metrics |= {"answers_right": right, "threads": torch.get_num_threads()}  # sums are in another order with others
    data = {"texts": len(texts), "tasks": list(tasks.TASKS), "documents": batches.documents}
    checkpoint.write_run(out, "base", args, data=data, metrics=metrics, seconds=time.monotonic() - started)
    return {"stage": "base", "output_dir": str(out), **metrics}


def new_model(tokenizer, hidden_size: int, layers: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=max(hidden_size // 128, 1),
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _optimizers(model) -> list:
    """Muon for the matrices and AdamW for the rest: reading emerges after a tenth of the tokens that AdamW alone
    needs."""
    import torch

    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    matrix_ids = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in matrix_ids]
    optimizers = [
        torch.optim.AdamW(others, lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95)),
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _schedule(step: int, steps: int) -> float:
    """Warm-up of 100 steps, constant until 60 %, then linear to 2 %."""
    return min(1.0, step / 100) * min(1.0, max(0.02, (1 - step / steps) / 0.4))


def answers(model, tokenizer, count: int) -> float:
    """Share of right answers about things with names that no training text has, in texts of one to four facts."""
    import torch

    was_training = model.training
    model.eval()
    draw, right = random.Random(7), 0
    for i in range(count):
        about = scenes.scene(draw, min_facts=1 + i % 4, max_facts=1 + i % 4, held_out=True)
        fact = draw.choice(about.facts)
        prompt = f"<s>{scenes.text(draw, about)}\n물음: {scenes.question(draw, fact)}\n대답:"
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0]
        right += tokenizer.decode(out[ids.shape[1] :]).strip().startswith(f"{fact.value}입니다")
    model.train(was_training)
    return right / count


class Batches:
    """Blocks of documents one after the other. A document is decided by the seed and its number alone, so a build can
    be stopped and resumed: `documents` is how many were drawn, `buffer` the tokens that no block has taken yet.

    A quarter of the documents stand as a lone turn of a random role, so that the turn tokens mean something; turns are
    never paired.
    """

    def __init__(self, tokenizer, texts: list[str], seed: int, steps: int):
        self.tokenizer, self.texts, self.seed, self.steps = tokenizer, texts, seed, steps
        self.documents, self.buffer = 0, []

    def next(self, step: int) -> list[list[int]]:
        """The token ids of a step: (rows, length), TOKENS_PER_STEP in all."""
        max_facts, length = next((facts, length) for share, facts, length in PHASES if step <= share * self.steps)
        while len(self.buffer) < TOKENS_PER_STEP:
            self.buffer += self.tokenizer(self._document(max_facts), add_special_tokens=False)["input_ids"]
        block, self.buffer = self.buffer[:TOKENS_PER_STEP], self.buffer[TOKENS_PER_STEP:]
        return [block[i : i + length] for i in range(0, TOKENS_PER_STEP, length)]

    def _document(self, max_facts: int) -> str:
        draw = random.Random(f"{self.seed} {self.documents}")
        self.documents += 1
        is_sample = draw.random() < SAMPLES_SHARE
        text = draw.choice(self.texts) if is_sample else plain.document(draw, max_facts=max_facts)
        if draw.random() < 1 / 4:
            return f"<s><|im_start|>{draw.choice(['system', 'user', 'assistant'])}\n{text}<|im_end|>\n"
        return f"<s>{text}</s>"


if __name__ == "__main__":
    cli.run(main, build_parser())
