"""Preference rows for train_LoRA_DPO.py: from votes, from samples of a model, from a teacher, from rated rows.

    --from_chat DB        votes and thumbs of the chat page; also rates the models
    --from_samples FILE   several answers to each prompt, by vllm_inference.py --n: the best against the worst, by what
                          is true, the rules of the task, the reference and a judge. --model_id samples them first
    --from_teacher FILE   a teacher's answers against --student_answers
    --from_ratings FILE   rows whose answers have scores, ranks or labels (UltraFeedback, KoRLHF, KTO)

Sources can be combined. Writes rows {"id", "task", "prompt", "chosen", "rejected"}, with score_chosen and
score_rejected where answers are scored: train.jsonl. Also report.json (every row's origin, what was dropped and why,
margins, lengths), rejects.jsonl (rows that cannot be used) and run.json, into --output_dir; with --from_chat
ratings.json, ratings.png and (--kto) kto.jsonl, with --best_as_sft sft.jsonl.

    python build_preferences.py --from_chat outputs/chat/chat.db --output_dir outputs/preferences
    python build_preferences.py --model_id outputs/sft --trainset_path sample_data/world/train.jsonl \\
        --output_dir outputs/preferences_samples
    python train_LoRA_DPO.py --model_id outputs/sft --trainset_path outputs/preferences/train.jsonl
"""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from sllm import checkpoint, cli, world
from sllm.cli import InputError
from sllm.data import preference_flags as flags
from sllm.data.json_writer import write_json, write_jsonl


def build_parser():
    p = cli.parser(__doc__, __file__)
    flags.add_flags(p)
    cli.add_output_flags(p, "outputs/preferences", resume="keep the samples and the calls that --output_dir has")
    return p


def main(args) -> dict:
    started = time.monotonic()
    flags.check(args)
    from sllm import bradley_terry, licenses
    from sllm.chatstore import Records
    from sllm.chatstore.command_line import read_named
    from sllm.data import answer_scores, chat_votes, formats, length_balance, preference_report, preferences
    from sllm.data import rated_rows, ratings, samples, teacher_pairs  # isort: skip
    from sllm.serve import offline

    # ── inputs ──
    out, sampled = Path(args.output_dir), flags.asks_model(args)
    prompts = flags.prompts(args)
    facts = world.read_facts(prompts)
    _, (records, database), candidates, student, teacher, _, _, _, _, *rated = cli.collect_errors(
        lambda: checkpoint.check_output(out, overwrite=args.overwrite, resume=args.resume),
        lambda: read_named(args, "from_chat") if args.from_chat else (Records(), None),
        lambda: samples.read(args.from_samples, facts),
        lambda: teacher_pairs.read(args.student_answers, facts) if args.student_answers else {},
        lambda: teacher_pairs.read(args.from_teacher, facts) if args.from_teacher else {},
        lambda: teacher_pairs.check(args) if flags.asks_teacher(args) else None,
        lambda: answer_scores.check_judge(args) if args.judge_model else None,
        lambda: offline.require_model(args) if sampled else None,
        lambda: formats.load_rows(prompts, "prompts") if prompts else None,
        *(partial(rated_rows.read, file, score_key=args.score_key) for file in args.from_ratings),
    )
    inputs = [database, prompts, *args.from_samples, args.from_teacher, args.student_answers, *args.from_ratings]
    if args.overwrite:
        checkpoint.require_distinct(out, *inputs, args.model_id, args.adapter)
    if calls := sampled or args.judge_model or flags.asks_teacher(args):  # what these answer is kept in the folder
        checkpoint.prepare_output(out, overwrite=args.overwrite, resume=args.resume)

    # ── answers ──
    if sampled:
        candidates = samples.read([sample(args, prompts, out)], facts)
    judge = partial(answer_scores.judge, args=args, journal=out / "judge_calls.jsonl") if args.judge_model else None
    asked = {}  # calls, tokens and cost
    if flags.asks_teacher(args):
        taught, asked["teacher"] = teacher_pairs.ask(student, args, out / "teacher_calls.jsonl")
    else:
        taught = teacher_pairs.answers_of(args.from_teacher, teacher) if teacher else {}

    # ── pairs ──
    truncated = {"keep_truncated": args.keep_truncated}
    scored = {"pairing": args.pairing, "limit": flags.limit(args), "min_margin": args.min_margin}
    collected = chat_votes.from_chat(records, max_pairs_per_prompt=args.max_pairs_per_prompt, **truncated)
    if candidates.questions:
        if calls_of_judge := samples.score(candidates, flags.weights(args), judge):
            asked["judge"] = calls_of_judge
        collected.include(samples.pairs(candidates, keep_imperfect=args.keep_imperfect, **scored, **truncated))
    if student:
        collected.include(teacher_pairs.pairs(taught, args.student_answers, student, facts, **truncated))
    for file in rated:
        collected.include(rated_rows.pairs(file, **scored))
    # From here on the pairs of all sources are alike.
    judgements = len(collected.pairs) + sum(collected.dropped.values())
    merged = preferences.merge(collected)
    entries = length_balance.balance(merged, args.seed) if args.balance_length else merged
    collected.dropped["dropped by --balance_length"] += len(merged) - len(entries)
    votes = [(c.left.model, c.right.model, c.choice) for c in records.comparisons if c.choice]
    fitted = bradley_terry.rate(votes, samples=int(args.bootstrap), seed=args.seed)
    kto, kto_dropped = chat_votes.unpaired(records, **truncated) if args.kto else ([], {})
    best = samples.best_rows(candidates) if args.best_as_sft else []
    rejects = [*map(vars, records.rejects), *(reject for file in rated for reject in file.rejects)]
    if not (entries or kto or best):
        raise InputError(preference_report.nothing(args, collected, rejects))

    # ── save ──
    if not calls:
        checkpoint.prepare_output(out, overwrite=args.overwrite, resume=args.resume)
    write_jsonl(out / "train.jsonl", [entry.row for entry in entries])
    if args.kto:
        write_jsonl(out / "kto.jsonl", kto)
    if args.best_as_sft:
        write_jsonl(out / "sft.jsonl", best)
    write_jsonl(out / "rejects.jsonl", rejects)
    if args.from_chat:
        write_json(out / "ratings.json", asdict(fitted))
    if fitted.models:
        ratings.plot(fitted, str(out / "ratings.png"))
    report = preference_report.build(collected, merged, entries, candidates, judgements=judgements, votes=len(votes))
    report |= {"rejects": len(rejects), "sft": len(best) if args.best_as_sft else None, "asked": asked}
    report |= {"kto": {"rows": len(kto), "dropped": dict(kto_dropped)} if args.kto else None}
    report |= {"origin": [entry.origin for entry in entries]}
    write_json(out / "report.json", report)
    data = {"kind": "preference", "rows": {"train": len(entries)}, "sha256": checkpoint.file_hash(out / "train.jsonl")}
    files = [file for file in inputs[1:] if file and Path(file).is_file()]  # not the database, which is in use
    data["sources"] = [source for file in files for source in licenses.sources_of(file)]
    checkpoint.write_run(out, "data", args, parents=files, data=data, seconds=time.monotonic() - started)
    preference_report.show(report)
    preference_report.show_ratings(fitted)
    counts = {"rows": len(entries), "judgements": judgements, "kto_rows": len(kto), "rejects": len(rejects)}
    counts |= {"sft_rows": len(best), "share_longer": report["length"]["after"].get("share_longer")}
    return {"stage": "data", "output_dir": str(out), **counts}


def sample(args, prompts: str, out: Path) -> Path:
    """Let vllm_inference.py answer each prompt --n times; what samples.jsonl has already stays with --resume."""
    import vllm_inference

    path = out / "samples.jsonl"
    words = ["--testset_path", prompts, "--output_path", str(path), *(["--resume"] if args.resume else [])]
    for name in ("model_id", "adapter", "limit", "n", "temperature", "top_p", "max_tokens", "max_seq_length", "dtype",
                 "seed"):  # fmt: skip
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", str(value)]
    again = cli.command_line(drop=["--overwrite"], add=["--resume"])
    vllm_inference.main(vllm_inference.build_parser().parse_args(words), resume=again)
    return path


if __name__ == "__main__":
    cli.run(main, build_parser())
