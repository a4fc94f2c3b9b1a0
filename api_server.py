"""Serve models over HTTP as OpenAI's API: a merged or base model, and LoRA adapters side by side on their base.

Reads the model's folder (or Hub id) and its chat template. Writes nothing but a log: one JSON object a request, on
stderr. Any OpenAI client works with it, at http://HOST:PORT/v1; /docs describes every endpoint, /v1/tasks the tasks.

    python api_server.py --model_id outputs/demo/merged
    python api_server.py --model_id outputs/demo/base --lora_modules sft=outputs/demo/sft dpo=outputs/demo/dpo

With an admin key adapters are loaded, replaced and unloaded while it runs (POST /v1/load_lora_adapter).
"""

import signal

from sllm import checkpoint, cli, network
from sllm.cli import InputError


def build_parser():
    from sllm.serve import flags
    from sllm.serve.sampling import MAX_SEED

    p = cli.parser(__doc__, __file__)
    group = p.add_argument_group("model")
    group.add_argument("--model_id", required=True, help="a merged, base or adapter folder, or a Hub id")
    group.add_argument("--lora_modules", nargs="+", default=[], metavar="NAME=FOLDER", help="adapters of --model_id, "
                       "served under NAME")  # fmt: skip
    group.add_argument(
        "--served_model_name", metavar="NAME", help="name of --model_id in the API; default: its folder's"
    )
    flags.add_engine_flags(group)
    group.add_argument("--seed", type=cli.integer(0, MAX_SEED), default=0, help="random seed of requests without one")
    flags.add_parallel_flags(p)
    flags.add_sampling_flags(p.add_argument_group("request defaults"), temperature=1.0)
    flags.add_task_flags(p)
    group = p.add_argument_group("tools and reasoning")
    group.add_argument("--tool_call_parser", metavar="NAME", help="vLLM's tool call parser of this family, such as "
                       "hermes")  # fmt: skip
    group.add_argument("--reasoning_parser", metavar="NAME", help="vLLM's reasoning parser of this family, such as "
                       "qwen3")  # fmt: skip
    flags.add_lora_flags(p)
    flags.add_access_flags(p)
    group = flags.add_load_flags(p)
    group.add_argument("--strict", action="store_true", help="refuse unknown top-level fields of a request; "
                       "otherwise they are ignored and listed in X-Ignored-Fields")  # fmt: skip
    group.add_argument("--log_prompts", action="store_true", help="write prompts to the log")
    return p


def main(args) -> dict | None:
    from sllm.data import formats
    from sllm.serve import access, dtypes, environment, parsers, served_model
    from sllm.serve.flags import ENGINE, PARALLEL, SAMPLING

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server runs, which reads the keys again on it
    environment.set_environment(args.tensor_parallel_size, server=True)

    # ── inputs: everything wrong with the command line in one go, before heavy imports ──
    (base, adapters), control, examples, *_ = cli.collect_errors(
        lambda: served_model.of_command_line(args),
        lambda: access.of_command_line(args),
        lambda: [row for path in args.task_examples for row in formats.load_rows(path, "prompts")],
        lambda: check_lengths(args),
        lambda: dtypes.check_precision(args.dtype, args.quantization, args.kv_cache_dtype),
        lambda: parsers.check(args.tool_call_parser, args.reasoning_parser),
    )

    from sllm.serve import access_log, admission, app, engine_client, lifecycle, model_info, models, tasks_api
    from sllm.serve.body import BodySettings
    from sllm.serve.in_flight import InFlightSettings

    # ── models ──
    context = min(args.max_seq_length, model_info.context_length(base) or args.max_seq_length)
    served = served_model.read_models(
        args.model_id, base, adapters, name=args.served_model_name, template=args.chat_template
    )
    capacity = admission.Capacity(args.max_num_seqs * args.data_parallel_size, args.max_waiting)
    limits = lora_limits(args, list(adapters.values()), runtime=bool(control.admin))
    defaults = {name: getattr(args, name) for name in [*SAMPLING, "max_tokens"]}
    registry = models.Models(
        base, served, defaults=defaults, context=context, chat_template=args.chat_template,
        parsers={"tool_parser": args.tool_call_parser, "reasoning_parser": args.reasoning_parser}, **limits,
    )  # fmt: skip

    # ── app ──
    sock = lifecycle.listen(args.host, args.port)
    address = network.url(args.host, sock)
    describe(args, registry, control, address)
    asgi, in_flight = app.create(
        registry,
        lambda: server.state,
        in_flight=InFlightSettings(capacity, timeout=args.request_timeout, log_prompts=args.log_prompts),
        access_control=control,
        body=BodySettings(max_bytes=int(args.max_body_mb * 2**20), strict=args.strict),
        tasks=tasks_api.task_entries(examples),
    )

    # ── engine ──
    def load():
        return engine_client.start(
            base,
            adapters=list(adapters.values()),
            max_model_len=context,
            max_num_seqs=args.max_num_seqs,
            kv_tokens=args.max_num_seqs * context,
            tool_call_parser=args.tool_call_parser,
            reasoning_parser=args.reasoning_parser,
            parallel={name: getattr(args, name) for name in [*PARALLEL, "distributed_executor_backend"]},
            **{name: getattr(args, name) for name in ENGINE},
            **limits,
        )

    listener = access_log.start()
    server = lifecycle.Server(
        asgi, registry, in_flight, load=load, shutdown_timeout=args.shutdown_timeout,
        ready=lambda: cli.say("ready", f"{address}/v1  ({address}/docs)"), reload=control.keys.reload,
    )  # fmt: skip
    try:
        server.run(sockets=[sock])
    finally:
        listener.stop()
        if server.llm is not None:
            server.llm.shutdown(timeout=0)
    if server.problem:
        raise server.problem
    if server.state == lifecycle.State.DEAD:
        raise SystemExit(1)
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    return {"stage": "served", "address": address}


def check_lengths(args) -> None:
    if args.max_seq_length < 16:
        raise InputError(f"--max_seq_length {args.max_seq_length} leaves no room for a prompt and an answer")


def lora_limits(args, adapters: list[str], *, runtime: bool) -> dict:
    """How many adapters the engine has room for, and of which rank. `runtime`: they may be loaded while it runs."""
    from sllm.serve import model_info

    rank = max([args.max_lora_rank, *(model_info.lora_rank(folder) for folder in adapters)])
    if not runtime:
        return {"max_loras": args.max_loras or len(adapters), "max_lora_rank": rank}
    rank = max(rank, 0 if args.max_lora_rank else 64)
    return {"max_loras": args.max_loras or max(8, len(adapters)), "max_lora_rank": rank}


def describe(args, registry, control, address) -> None:
    """What is about to be served, and how, as a table."""
    from sllm.serve import flags

    served, base = registry.by_name.values(), registry.base
    for model in served:
        cli.say("model", f"{model.name}: {model.kind}, chat template {model.chat_template}")
    for note in dict.fromkeys(note for model in served for note in checkpoint.notes(model.adapter or base, base)):
        cli.say("note", note)
    cli.say("engine", f"{flags.precision(args)}, {registry.context} tokens of context")
    cli.say("capacity", f"{args.max_num_seqs} running, {args.max_waiting} waiting")
    cli.say("sampling", " · ".join(f"{name} {value}" for name, value in registry.defaults.items()))
    cli.say("keys", ", ".join(control.keys.names) or "none: authentication disabled")
    if control.admin:
        cli.say("admin keys", ", ".join(control.admin.names))
    cli.say("loading", f"{address}/ready says when it is done")


if __name__ == "__main__":
    cli.run(main, build_parser())
