"""The training of the base model: one or two data-parallel processes, Muon and AdamW, a state to resume from."""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from sllm import chat
from sllm.tiny_base import corpus
from sllm.tiny_base.measure import measure_answers

STATE = "training_state-{}.pt"  # of each process of a build that is not finished
SAVE_STEPS, REPORT_STEPS = 1000, 100
LEARNING_RATE = 2e-3


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def train(rank: int, args, out: Path, rendezvous: Path) -> None:
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
            state |= {"documents": batches.documents, "arguments": vars(args), "texts": digest(texts)}
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
