"""Build the small base model that demo and tests use, from scratch and from nothing but `sample_data/`.

A Llama of about 4 M parameters with a byte-level BPE tokenizer. It carries the whole pipeline through the
same code and the same engine as an 8B model; it has no language skill to speak of. What it learns from is the
bare text of the samples, each piece a document of its own: never a question with its answer, never a whole
conversation, and none of the answers that SFT trains on, so that fine-tuning still has everything to teach.

    python -m sllm.tiny_base --output_dir outputs/tiny_base
"""

import json
import random
import time
from pathlib import Path

from sllm import checkpoint, cli, tasks

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def build_parser():
    p = cli.parser(__doc__, "-m sllm.tiny_base")
    p.add_argument("--output_dir", default="outputs/tiny_base", help="folder to write")
    cli.add_overwrite_flag(p)
    p.add_argument("--sample_data", default="sample_data", help="folder whose .jsonl rows are the corpus")
    p.add_argument("--steps", type=cli.positive_int, default=2000, help="optimizer steps")
    p.add_argument("--vocab_size", type=cli.positive_int, default=4096, help="tokens, specials included")
    p.add_argument("--hidden_size", type=cli.integer(64, 8192), default=256, help="width; 64 a head")
    p.add_argument("--layers", type=cli.positive_int, default=4, help="decoder layers")
    p.add_argument("--seed", type=cli.seed, default=42, help="weights and order of the text")
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

    checkpoint.check_output(args.output_dir, overwrite=args.overwrite)
    checkpoint.require_distinct(args.output_dir, args.sample_data)
    texts = corpus(args.sample_data)
    if not texts:
        raise cli.InputError(f"{args.sample_data} has no .jsonl rows")
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite)

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    started = time.monotonic()
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(texts, args.vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.hidden_size * 5 // 2,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        num_key_value_heads=max(args.hidden_size // 128, 1),
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    parameters = sum(weight.numel() for weight in model.parameters())

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, args.steps)
    batches = _batches(tokenizer, texts, rows=4, length=256, seed=args.seed)
    model.train()
    for step in range(1, args.steps + 1):
        ids = torch.tensor(next(batches))  # (rows, length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == args.steps:
            rate = step * ids.numel() / (time.monotonic() - started)
            seconds_left = (args.steps - step) * ids.numel() / rate
            print(f"step {step}/{args.steps} | loss {loss.item():.3f} | {rate:,.0f} tok/s | {seconds_left:.0f} s left")

    model.to(torch.bfloat16).eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    chat.set_chat_template(tokenizer)  # for the probe only: a base model is shipped without a template
    metrics = {"parameters": parameters, "loss": round(loss.item(), 4), "steps": args.steps, "tokens": len(tokenizer)}
    data = {"texts": len(texts), "tasks": list(tasks.TASKS)}
    checkpoint.write_run(out, "base", args, data=data, metrics=metrics, seconds=time.monotonic() - started)
    return {"stage": "base", "output_dir": str(out), **metrics}


def _batches(tokenizer, texts: list[str], *, rows: int, length: int, seed: int):
    """Endless (rows, length) blocks of token ids. Every pass shuffles the documents again; a third of them stand
    as a lone turn of a random role, so that the turn tokens mean something, and turns are never paired."""
    order = random.Random(seed)
    buffer: list[int] = []
    while True:
        for text in order.sample(texts, len(texts)):
            if order.random() < 1 / 3:
                role = order.choice(["system", "user", "assistant"])
                document = f"<s><|im_start|>{role}\n{text}<|im_end|>\n"
            else:
                document = f"<s>{text}</s>"
            buffer += tokenizer(document, add_special_tokens=False)["input_ids"]
        while len(buffer) > rows * length:
            block, buffer = buffer[: rows * length], buffer[rows * length :]
            yield [block[i * length : (i + 1) * length] for i in range(rows)]


if __name__ == "__main__":
    cli.run(main, build_parser())
