"""What vllm_inference.py does around the engine: its flags checked together, prompts tokenized, answers grouped."""

from collections.abc import Callable, Iterator

from sllm import chat, checkpoint, cli, generation
from sllm.cli import InputError
from sllm.serve import dtypes, engine, model_info, sampling
from sllm.serve.flags import ENGINE, SAMPLING

# What vLLM's beam search would ignore, and what without one nothing would read.
NOT_IN_BEAM_SEARCH = [*SAMPLING, "stop", "n", "logprobs", "json_schema"]
BEAMS = ["num_beams", "length_penalty"]


def check_flags(args, default: Callable[[str], object]) -> None:
    """InputError for flags that contradict each other. `default`: of a flag's name."""
    problems = []
    unread = NOT_IN_BEAM_SEARCH if args.use_beam_search else BEAMS
    unused_flags = [f"--{name}" for name in unread if getattr(args, name) != default(name)]
    if unused_flags:
        when = "not with" if args.use_beam_search else "only with"
        problems.append(f"{', '.join(unused_flags)}: {when} --use_beam_search, which takes no sampling; choose one way")
    if args.n > 1 and not args.temperature:
        problems.append(f"--n {args.n}: greedy answers are identical; sample with --temperature 0.7")
    if not all(args.stop or ["none"]):
        problems.append("--stop: an empty text would end every answer at once; leave it out")
    if args.json_schema and (args.ignore_eos or args.stop):
        problems.append(
            "--json_schema: not with --ignore_eos or --stop, which would cut the JSON or follow it with more"
        )
    if args.output_path.endswith("/"):
        problems.append(f"{args.output_path} is a folder; name a file: --output_path {args.output_path}outputs.jsonl")
    if problems:
        raise InputError(problems)


def require_model(args) -> tuple[str, str | None]:
    """(base, adapter or None) of --model_id and --adapter, checked."""
    if not args.adapter and not args.model_id:
        raise InputError("name a model: --model_id FOLDER, or --adapter FOLDER")
    if args.adapter and not checkpoint.is_adapter(args.adapter):
        raise InputError(f"--adapter {args.adapter} is not an adapter folder (adapter_config.json)")
    if args.adapter and args.model_id and checkpoint.is_adapter(args.model_id):
        raise InputError(f"--model_id {args.model_id} is an adapter itself; name its base, or leave out --adapter")
    base_model = args.model_id if args.adapter else None
    base, adapter = checkpoint.require_model(args.adapter or args.model_id, base_model=base_model)
    if adapter:
        model_info.check_adapter(adapter, base)
    return base, adapter


def settings(args, base: str, adapter: str | None, tokenizer, schema: dict | None, *, context: int, stops) -> dict:
    """What decides the answers: recorded, and compared when a run is resumed."""
    return {
        "model": checkpoint.folder_hash(base) or base,
        "adapter": checkpoint.folder_hash(adapter) if adapter else None,
        "chat_template": chat.template_hash(tokenizer),
        "dtype": dtypes.resolve_dtype(args.dtype, args.quantization),
        "quantization": args.quantization,
        "kv_cache_dtype": None if args.kv_cache_dtype == "auto" else args.kv_cache_dtype,
        "max_seq_length": context,
        "stop_token_ids": stops,
        **{name: getattr(args, name) for name in ["max_tokens", "ignore_eos", "seed", *SAMPLING, "stop"]},
        "n": args.n if args.n > 1 else None,
        "logprobs": args.logprobs,
        "json_schema": schema,
        **({name: getattr(args, name) for name in BEAMS} if args.use_beam_search else {"num_beams": None}),
    }


def load(args, base: str, adapter: str | None, context: int, lengths: list[int]):
    """The engine. `lengths`: tokens of prompt and answer together, of each answer."""
    num_beams = args.num_beams if args.use_beam_search else 0
    return engine.load(
        base,
        adapters=[adapter] if adapter else [],
        max_model_len=context,
        tensor_parallel_size=args.tensor_parallel_size,
        kv_tokens=sum(sorted(lengths)[-engine.MAX_ROWS :]) * max(1, num_beams),
        num_beams=num_beams,
        **{name: getattr(args, name) for name in ENGINE},
    )


def render(tokenizer, rows: list[dict], longest: int, skipped) -> list[list[int]]:
    """Token ids of every row's prompt. `skipped` takes the rows that the template refuses (they have no ids), and those
    that fill `longest` tokens and leave none for an answer; InputError where they may not be skipped."""
    prompts = []
    for row in rows:
        try:
            chat.refuse_special_tokens(tokenizer, row["messages"])
            prompts.append(chat.prompt_ids(tokenizer, row["messages"]))
            if len(prompts[-1]) >= longest:
                fault = f"its prompt has {len(prompts[-1])} tokens, prompt and answer together may have {longest}"
                skipped.add(row, f"{fault}; shorten it or see --max_seq_length")
        except (InputError, ValueError) as error:
            prompts.append([])
            skipped.add(row, str(error))
    skipped.check()
    return prompts


def answer(
    args, llm, prompts, room, rows: list[int], *, stops: list[int], adapter: str | None, json_schema
) -> Iterator[tuple[int, list[generation.Generation]]]:
    """Yield (row, its --n answers) for every row in `rows`, in whatever order they are done."""
    if not rows:
        return
    ids = [prompts[row] for row in rows for _ in range(args.n)]
    if args.use_beam_search:
        params = [sampling.beam_params(args, max_tokens=room[row]) for row in rows]
        generated = engine.beam_search(llm, ids, params, stop_token_ids=stops, adapter=adapter)
    else:
        seeds = [(row, sampling.seed_of(args.seed, row, sample)) for row in rows for sample in range(args.n)]
        shared = {"stop_token_ids": stops, "json_schema": json_schema}
        params = [sampling.sampling_params(args, max_tokens=room[row], seed=seed, **shared) for row, seed in seeds]
        generated = engine.generate(llm, ids, params, adapter=adapter)
    settings = {"stop_token_ids": stops} | sampling.effective_params(params[0]) | {"max_tokens": args.max_tokens}
    settings |= {"seed": f"{args.seed} + row"} if args.temperature else {}
    settings |= {name: getattr(args, name) for name in ("logprobs", "json_schema") if getattr(args, name) is not None}
    settings |= {"n": args.n} if args.n > 1 else {}
    cli.say("effective", " · ".join(f"{name} {value}" for name, value in settings.items()))
    yield from ((rows[index], group) for index, group in generation.grouped(generated, args.n))
