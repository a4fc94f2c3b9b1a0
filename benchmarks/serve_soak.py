"""api_server.py under a steady load for ten minutes: does its memory grow, and does anything fail?

Eight clients ask for streams and whole answers, of chats, completions and tasks, one after the other; some leave in the
middle. The memory of the server and its engine is sampled every second; growth is the median of the last minute
over the median of the first one after the warm-up. The KV cache is reserved at the start and becomes resident as it is
first used; it is kept small here, so that the warm-up fills it and what grows afterwards is a leak.

    python benchmarks/serve_soak.py --minutes 10

With --adapters two adapters take turns under one name, and another one comes and goes, 100 times under the same load.

    python benchmarks/serve_soak.py --minutes 5 --adapters outputs/demo/sft outputs/demo/dpo
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model_id", default=str(ROOT / "sample_data" / "tiny_base"))
    p.add_argument("--minutes", type=float, default=10, help="after the warm-up")
    p.add_argument("--warm_up_minutes", type=float, default=1)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--adapters", nargs=2, metavar="FOLDER", help="of --model_id, by their run.json")
    p.add_argument("--cycles", type=int, default=100, help="of replacing, loading and unloading adapters")
    return p


def resident(pids: list[int]) -> float:
    """MiB of the processes' own memory, shared memory counted once (Pss_Anon and Pss_Shmem). Libraries and weights that
    are mapped from files are left out: their share changes with what else runs on the machine."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])
    return total / 1024


async def ask(
    client: httpx.AsyncClient, rows: list[dict], dice: random.Random, counts: Counter, models: list[str]
) -> None:
    row = dice.choice(rows)
    messages = [{"role": "system", "content": row["system_prompt"]}, {"role": "user", "content": row["user_content"]}]
    kind = dice.choice(["chat", "chat", "text", "task"])
    body = {"max_tokens": dice.randint(8, 64), "temperature": dice.choice([0, 1]), "stream": dice.random() < 0.7}
    path = "/v1/chat/completions"
    if kind == "chat":
        body |= {"messages": messages}
    elif kind == "text":
        path, body = "/v1/completions", body | {"prompt": row["assistant_content"][:100]}
    else:
        path, body = "/v1/tasks/task04_02", body | {"question": row["user_content"][:80]}
    if models:
        body["model"] = dice.choice(models)
    leave = body["stream"] and dice.random() < 0.05
    async with client.stream("POST", path, json=body) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            if leave:
                counts["left"] += 1
                return
    whole = text.endswith("data: [DONE]\n\n") if body["stream"] else "usage" in text
    counts["answered" if answer.status_code == 200 and whole and '"error"' not in text else "failed"] += 1


async def load(args, url: str, pids: list[int]) -> tuple[list[float], Counter]:
    rows = [json.loads(line) for line in (ROOT / "sample_data" / "task_rows.jsonl").open(encoding="utf-8")]
    counts, samples = Counter(), []
    end = time.monotonic() + 60 * (args.minutes + args.warm_up_minutes)

    async def one(number: int) -> None:
        dice = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while time.monotonic() < end:
                try:
                    await ask(client, rows, dice, counts, ["base", "turns"] if args.adapters else [])
                except httpx.HTTPError as error:
                    counts[type(error).__name__] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            samples.append(resident(pids))
            if len(samples) % 60 == 0:
                print(f"{len(samples) // 60:>3} min  {samples[-1]:,.1f} MiB  {dict(counts)}", flush=True)
            await asyncio.sleep(1)

    async def change() -> None:
        """Adapters in a steady rhythm over the whole time."""
        async with httpx.AsyncClient(base_url=url, timeout=60, headers={"Authorization": "Bearer soak"}) as client:
            for cycle in range(args.cycles):
                first, second = args.adapters[cycle % 2], args.adapters[1 - cycle % 2]
                for path, body in (
                    ("load", {"lora_name": "turns", "lora_path": first, "load_inplace": cycle > 0}),
                    ("load", {"lora_name": "comes", "lora_path": second}),
                    ("unload", {"lora_name": "comes"}),
                ):
                    done = await client.post(f"/v1/{path}_lora_adapter", json=body)
                    counts["adapter changes" if done.status_code == 200 else f"adapter {done.text[:200]}"] += 1
                if cycle == 0:
                    begun.set()
                left = args.cycles - cycle
                await asyncio.sleep(max(0, (end - time.monotonic() - 2) / left))

    begun, work = asyncio.Event(), []
    if args.adapters:
        work = [asyncio.create_task(change())]
        await begun.wait()
    await asyncio.gather(watch(), *work, *(one(number) for number in range(args.clients)))
    return samples, counts


def main(args) -> None:
    from server_process import Running

    flags = ["--model_id", args.model_id, "--max_num_seqs", 16, "--max_seq_length", 1024]
    if args.adapters:
        flags += ["--served_model_name", "base", "--admin_key", "soak", "--max_loras", 2]
    server = Running(*flags)
    try:
        samples, counts = asyncio.run(load(args, server.url, [server.process.pid, *server.engine_pids()]))
        server.wait_for(server.idle, 5)
    finally:
        code = server.stop()
    samples = samples[int(60 * args.warm_up_minutes) :]
    minute = max(1, min(60, len(samples) // 4))
    first, last = (statistics.median(part) for part in (samples[:minute], samples[-minute:]))
    errors = [line for line in server.log if line["level"] == "error"]
    print(
        f"\n{sum(counts.values()):,} requests in {args.minutes + args.warm_up_minutes:g} min: {dict(counts)}, "
        f"{len(errors)} errors in the log, exit {code}\n"
        f"memory {first:,.1f} → {last:,.1f} MiB, {last / first - 1:+.2%}"
    )


if __name__ == "__main__":
    main(build_parser().parse_args())
