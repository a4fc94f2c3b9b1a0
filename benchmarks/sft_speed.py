"""SFT throughput: train_LoRA_SFT.py with its defaults beside plain TRL `SFTTrainer`.

The same model, LoRA, batch, learning rate, precision and rows for one epoch, one after the other, and the loss of both
adapters on the same held-out rows, measured by the same code. Rows are short everyday questions mixed with long
task rows (each repeated 20 times): the length mix that makes padding expensive.

    python benchmarks/sft_speed.py --chatbot chatbot_qa.csv --long_rows seed_task_rows.jsonl
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LORA = {"r": 64, "lora_alpha": 128, "lora_dropout": 0.0}


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--chatbot", required=True, help="a CSV with columns Q and A")
    p.add_argument("--long_rows", required=True, help="task rows in the original's format")
    p.add_argument("--model_id", default=str(ROOT / "sample_data" / "tiny_base"))
    p.add_argument(
        "--limit", type=int, help="use this many of the short rows (default: all), and as much less of the long ones"
    )
    p.add_argument("--held_out", type=int, default=300, help="rows kept out of training")
    p.add_argument("--flags", nargs="*", default=[], help="further flags for train_LoRA_SFT.py, without their --")
    p.add_argument("--only", choices=("ours", "plain"), help="measure one side")
    p.add_argument(
        "--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=True, help="of the plain trainer"
    )
    p.add_argument("--plain", nargs=3, metavar=("MODEL", "ROWS", "OUT"), help=argparse.SUPPRESS)
    return p


def rows_of(args) -> tuple[list[dict], list[dict]]:
    with open(args.chatbot, encoding="utf-8-sig") as file:
        short = [{"user_content": r["Q"], "assistant_content": r["A"]} for r in csv.DictReader(file)][: args.limit]
    long = [json.loads(line) for line in Path(args.long_rows).read_text(encoding="utf-8").splitlines()]
    share = len(short) / 11823
    rows = short + [row for row in long for _ in range(max(1, round(20 * share)))]
    rows = [
        {
            "messages": ([{"role": "system", "content": row["system_prompt"]}] if row.get("system_prompt") else [])
            + [{"role": "user", "content": row["user_content"]}]
            + [{"role": "assistant", "content": row["assistant_content"]}]
        }
        for row in rows
    ]
    random.Random(0).shuffle(rows)
    return rows[args.held_out :], rows[: args.held_out]


def train_plain(model_id: str, rows_path: str, out: str, checkpointing: bool) -> None:
    """Plain TRL as its documentation shows it: conversational prompt-completion rows, padded batches, and TRL's own
    default of gradient checkpointing (--no-gradient_checkpointing leaves it out)."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from sllm import chat

    tokenizer = chat.load_tokenizer(model_id)
    chat.set_chat_template(tokenizer)
    rows = [json.loads(line)["messages"] for line in open(rows_path, encoding="utf-8")]
    dataset = Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in rows])
    config = SFTConfig(
        output_dir=out, per_device_train_batch_size=4, gradient_accumulation_steps=8, num_train_epochs=1,
        learning_rate=2e-5, lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.1, max_length=2048,
        bf16=False, gradient_checkpointing=checkpointing, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=42,
        logging_steps=20,
    )  # fmt: skip
    target = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    trainer = SFTTrainer(
        model=model_id, args=config, train_dataset=dataset, processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=target, **LORA),
    )  # fmt: skip
    trainer.model.float()
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    trainer.save_model(out)
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


def held_out_loss(model_id: str, adapter: str, rows: list[dict]) -> float:
    """Mean loss of the supervised tokens, rows one at a time: nats per token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sllm import chat
    from sllm.data import tokenize

    tokenizer = chat.load_tokenizer(adapter)
    chat.set_chat_template(tokenizer)
    columns, _ = tokenize.sft_columns(tokenizer, [{"id": str(i), **row} for i, row in enumerate(rows)], 2048)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_id, dtype=torch.float32), adapter)
    model.eval()
    total = count = 0
    with torch.no_grad():
        for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
            supervised = sum(label >= 0 for label in labels)
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
            total, count = total + loss * supervised, count + supervised
    return total / count


def main(args) -> None:
    if args.plain:
        train_plain(*args.plain, args.gradient_checkpointing)
        return
    rows, held_out = rows_of(args)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        results = {}
        if args.only != "plain":
            extra = [word if word[0].isdigit() else f"--{word}" for word in args.flags]
            command = [
                "train_LoRA_SFT.py", "--trainset_path", path, "--model_id", args.model_id, "--train_epochs", "1",
                "--report_to", "none", "--save_steps", "100000", "--output_dir", f"{folder}/ours", *extra,
            ]  # fmt: skip
            run(command)
            run_json = json.load(open(f"{folder}/ours/run.json", encoding="utf-8"))
            tokens, seconds = run_json["data"]["train"]["tokens"], run_json["metrics"]["train_seconds"]
            results["train_LoRA_SFT.py"] = (tokens, seconds, held_out_loss(args.model_id, f"{folder}/ours", held_out))
        if args.only != "ours":
            out = run(
                [
                    __file__,
                    "--plain",
                    args.model_id,
                    path,
                    f"{folder}/plain",
                    "--chatbot",
                    "-",
                    "--long_rows",
                    "-",
                    "--gradient_checkpointing" if args.gradient_checkpointing else "--no-gradient_checkpointing",
                ]
            )
            plain = json.loads(out.splitlines()[-1])
            loss = held_out_loss(args.model_id, f"{folder}/plain", held_out)
            results["plain TRL SFTTrainer"] = (plain["tokens"], plain["seconds"], loss)
    base = results.get("plain TRL SFTTrainer")
    print(f"\n{len(rows):,} rows, one epoch, batch 4 × 8\n")
    print("| | real tokens | seconds | real tokens/s | ratio | held-out loss |\n|---|---|---|---|---|---|")
    for name, (tokens, seconds, loss) in results.items():
        ratio = f"{tokens / seconds / (base[0] / base[1]):.2f}×" if base else "–"
        print(f"| {name} | {tokens:,} | {seconds:,.0f} | {tokens / seconds:,.0f} | {ratio} | {loss:.4f} |")


def run(words: list) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    return done.stdout


if __name__ == "__main__":
    main(build_parser().parse_args())
