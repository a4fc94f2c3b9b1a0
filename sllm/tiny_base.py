"""Build the small base model that demo and tests use, from scratch: from plain texts about the small world (sllm/world)
and the bare texts of `sample_data/`.

A Llama of 3.5 M parameters, which carries the whole pipeline through the same code and the same engine as an 8B model.
It learns to read: what its dialogues ask can only be answered from the passage above them. It never sees a task's
prompt with its answer, and none of the answers that SFT trains on.

    python -m sllm.tiny_base --output_dir outputs/tiny_base
    python -m sllm.tiny_base --model_id outputs/tiny_base --steps 2400 --output_dir outputs/tiny_base_further
"""

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sllm import chat, checkpoint, cli, tasks
from sllm.world import corpus, plain, scenes

STATE = "training_state-{}.pt"  # of each process of a build that is not finished
SAVE_STEPS, REPORT_STEPS = 1000, 100
EVAL_BATCH = 20  # prompts answered together
LEARNING_RATE = 2e-3


def build_parser():
    p = cli.parser(__doc__, "-m sllm.tiny_base")
    p.add_argument("--sample_data", default="sample_data", help="folder whose .jsonl rows are part of the corpus")
    p.add_argument("--model_id", metavar="FOLDER", help="a base of this script, to be trained further: width, "
                   "layers and tokens are its own; default: from scratch")  # fmt: skip
    p.add_argument("--steps", type=cli.positive_int, default=8000, help="optimizer steps of 2,048 tokens")
    p.add_argument("--vocab_size", type=cli.positive_int, default=2048, help="tokens at most, specials included")
    p.add_argument("--hidden_size", type=cli.integer(64, 8192), default=256, help="width; 32 a head")
    p.add_argument("--layers", type=cli.positive_int, default=4, help="decoder layers")
    p.add_argument("--processes", type=cli.integer(1, 2), default=2, help="data-parallel processes that share the "
                   "cores (two take a batch in half the time; two threads in two thirds)")  # fmt: skip
    p.add_argument("--seed", type=cli.seed, default=42, help="weights and texts")
    cli.add_output_flags(p, "outputs/tiny_base", resume="continue a build that was stopped")
    return p


def main(args) -> dict:
    checkpoint.check_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)
    checkpoint.require_distinct(args.output_dir, args.sample_data)
    if not corpus.sample_texts(args.sample_data):
        raise cli.InputError(f"{args.sample_data} has no .jsonl rows")
    if args.model_id:
        checkpoint.require(args.model_id, stage="base")
        checkpoint.require_distinct(args.output_dir, args.model_id)
    if args.resume:
        _check_resumable(args, Path(args.output_dir))
    out = checkpoint.prepare_output(args.output_dir, overwrite=args.overwrite, resume=args.resume)

    import torch

    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        if args.processes == 1:
            _train(0, args, out, rendezvous)
        else:
            torch.multiprocessing.spawn(_train, (args, out, rendezvous), args.processes)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (out / "metrics.json").unlink()
    for path in out.glob(STATE.format("*")):
        path.unlink()
    documents, seconds = metrics.pop("documents"), metrics.pop("seconds")
    data = {"texts": len(corpus.sample_texts(args.sample_data)), "tasks": list(tasks.TASKS), "documents": documents}
    parents = [args.model_id] if args.model_id else []
    checkpoint.write_run(out, "base", args, parents=parents, data=data, metrics=metrics, seconds=seconds)
    return {"stage": "base", "output_dir": str(out), **metrics}


def _check_resumable(args, out: Path) -> None:
    """Refuse to resume unless the saved states of all processes are of one step, and of these flags and texts."""
    import torch

    paths = [out / STATE.format(rank) for rank in range(args.processes)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise cli.InputError(f"--resume: {', '.join(missing)} does not exist; start without it")
    states = [torch.load(path, weights_only=True) for path in paths]
    names = ("model_id", "sample_data", "steps", "vocab_size", "hidden_size", "layers", "processes", "seed")
    begun = states[0]["arguments"]
    problems = [
        f"--resume: the build was started with --{name} {begun.get(name)}"
        for name in names
        if getattr(args, name) != begun.get(name)
    ]
    if not problems and states[0]["texts"] != _digest(corpus.sample_texts(args.sample_data)):
        problems = [f"--resume: the texts in {args.sample_data} have changed"]
    if len({state["step"] for state in states}) > 1:
        problems += [f"--resume: the states of the processes in {out} are of different steps; start without it"]
    if problems:
        raise cli.InputError(problems)


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _train(rank: int, args, out: Path, rendezvous: Path) -> None:
    """Train the model in one of the processes; the first one reports and saves."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # its lock would be left behind
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.processes))
    if args.processes > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{rendezvous.resolve()}", rank=rank, world_size=args.processes
        )
    torch.manual_seed(args.seed)
    texts = corpus.sample_texts(args.sample_data)
    tokenizer, model = _start(args, texts)
    matrices, others = _parameters(model)
    optimizers = _optimizers(matrices[rank :: args.processes], others)
    batches = corpus.Batches(tokenizer, texts, args.seed, args.steps, further=bool(args.model_id))
    state_path, first_step, before = out / STATE.format(rank), 1, 0.0
    if args.resume:
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        batches.documents = state["documents"]
        first_step, before = state["step"] + 1, state["seconds"]
    model.train()
    losses, started = [], time.monotonic() - before
    clock = time.monotonic()
    for step in range(first_step, args.steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = LEARNING_RATE * _schedule(step, args.steps)
        losses.append(_step(model, matrices, optimizers, batches.batch(step), rank, args.processes))
        if rank == 0 and (step % REPORT_STEPS == 0 or step == args.steps):
            mean_loss = sum(losses) / len(losses)
            rate = len(losses) * corpus.TOKENS_PER_STEP / (time.monotonic() - clock)
            left = (args.steps - step) * corpus.TOKENS_PER_STEP / rate / 60
            say = f"loss {mean_loss:.3f} | {rate:,.0f} tok/s | {left:.0f} min left"
            print(f"step {step:,}/{args.steps:,} | {say}", flush=True)
            losses, clock = [], time.monotonic()
        if step % SAVE_STEPS == 0 and step < args.steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
            state |= {"documents": batches.documents, "arguments": vars(args), "texts": _digest(texts)}
            torch.save(state | {"seconds": time.monotonic() - started}, state_path.with_suffix(".new"))
            if args.processes > 1:  # all of the same step, or none
                torch.distributed.barrier()
            state_path.with_suffix(".new").replace(state_path)
            if rank == 0:
                measure_answers(model, tokenizer, 60)
            clock = time.monotonic()
    if rank == 0:
        metrics = {"loss": round(mean_loss, 4), "steps": args.steps, "documents": batches.documents}
        _save(model, tokenizer, out, metrics | {"seconds": time.monotonic() - started}, args.model_id)
    if args.processes > 1:  # neither leaves while the other may still be talking to it
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)  # not through the interpreter's shutdown: one of two finished processes once aborted (torch 2.13)


def _start(args, texts: list[str]) -> tuple:
    """Tokenizer and model that training starts from: new ones, or those of --model_id."""
    import torch
    from transformers import AutoModelForCausalLM

    if args.model_id:
        model = AutoModelForCausalLM.from_pretrained(args.model_id, dtype=torch.float32)
        return chat.load_tokenizer(args.model_id), model
    tokenizer = corpus.train_tokenizer(corpus.tokenizer_texts(texts, args.seed), args.vocab_size)
    return tokenizer, new_model(tokenizer, args.hidden_size, args.layers)


def _step(model, matrices: list, optimizers: list, batch, rank: int, processes: int) -> float:
    """One optimizer step, and its loss. Each process takes its rows of the batch, whose gradients are added up, and
    updates its share of the matrices."""
    import torch

    ids, positions, weights = (torch.tensor(block) for block in batch)  # (rows, length) each
    own = slice(rank, None, processes)
    loss = _loss(model, ids[own], positions[own], weights[own] / weights[:, 1:].sum())
    loss.backward()
    if processes > 1:
        loss = _add_up(loss, model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if processes > 1:
        for i, matrix in enumerate(matrices):
            torch.distributed.broadcast(matrix.detach(), i % processes)
    return loss.item()


def _save(model, tokenizer, out: Path, metrics: dict, start: str | None) -> None:
    """The model, and in metrics.json what the starting process reports of it."""
    import torch

    model = model.to(torch.bfloat16).eval()
    metrics |= {"answers_right": measure_answers(model, tokenizer, 200), "tokens": len(tokenizer)}
    metrics |= {"parameters": sum(weight.numel() for weight in model.parameters())}
    model.save_pretrained(out)
    if start:  # a tokenizer that was loaded is saved with settings that it did not have
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(start) / name, out)
    else:
        tokenizer.backend_tokenizer.no_padding()  # measure_answers pads
        tokenizer.save_pretrained(out)
    (out / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def _loss(model, ids, positions, weights):
    """Weighted sum of the tokens' cross-entropy; the documents of a row do not see each other. ids, positions, weights:
    (rows, length)."""
    import torch

    document = (positions == 0).cumsum(1)
    mask = (document[:, None, :, None] == document[:, None, None, :]).tril()  # (rows, 1, length, length)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def _add_up(loss, model):
    """Add the gradients of all processes, and return the sum of their losses."""
    import torch
    import torch.distributed as dist

    weights = list(model.parameters())
    flat = torch.cat([loss.detach()[None], *(weight.grad.flatten() for weight in weights)])
    dist.all_reduce(flat)
    total, *gradients = flat.split([1, *(weight.numel() for weight in weights)])
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad.copy_(gradient.view_as(weight))
    return total


def new_model(tokenizer, hidden_size: int, layers: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _parameters(model) -> tuple[list, list]:
    """The matrices of the layers, and all other weights."""
    is_matrix = {name: weight.ndim == 2 and "embed" not in name for name, weight in model.named_parameters()}
    matrices = [weight for name, weight in model.named_parameters() if is_matrix[name]]
    return matrices, [weight for name, weight in model.named_parameters() if not is_matrix[name]]


def _optimizers(matrices: list, others: list) -> list:
    """Muon for the matrices and AdamW for the rest: reading emerges after a tenth of the tokens that AdamW alone
    needs."""
    import torch

    return [
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.95)),
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    ]


def _schedule(step: int, steps: int) -> float:
    """Warm-up of 100 steps, constant until 70 %, then linear to 2 %."""
    return min(1.0, step / 100) * min(1.0, max(0.02, (1 - step / steps) / 0.3))


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


if __name__ == "__main__":
    cli.run(main, build_parser())
