"""Made-up requests through the same code as real ones, so that the first real ones cost what later ones do: kernels
compile, grammars load and buffers grow on first use."""

import asyncio
import time

from sllm import chat
from sllm.serve.models import Models
from sllm.serve.served_model import ServedModel

SECONDS = 10.0  # at most about so long: a model that is slower than that gains less than its users wait


async def warm_up(models: Models, batch_size: int) -> None:
    """Few and `batch_size` at once, each model alone and all in one batch, with JSON and with log-probabilities; for a
    slow model only the first of these."""

    async def ask(served: ServedModel, number: int, **settings) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        messages = [{"role": "user", "content": f"{number} 안녕하세요. " * (1 + number % 4)}]
        ids = chat.prompt_ids(served.tokenizer, messages)[: max(1, models.context - 9)]
        kind = RequestOutputKind.DELTA if number % 2 else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(max_tokens=8, ignore_eos=True, output_kind=kind, **settings)
        prompt = {"type": "token", "prompt_token_ids": ids}
        async for _ in served.client.generate(prompt, params, f"warm-{served.name}-{number}"):
            pass

    from vllm.sampling_params import StructuredOutputsParams

    all_served = list(models.by_name.values())
    started = time.monotonic()
    seconds_each = 0.0
    for served in all_served:
        for count in (1, 2, batch_size, 1):
            begun = time.monotonic()
            if begun - started + count * seconds_each > SECONDS:
                return
            await asyncio.gather(*(ask(served, number, temperature=number % 3 / 2) for number in range(count)))
            seconds_each = (time.monotonic() - begun) / count
    await asyncio.gather(*(ask(served, number) for number, served in enumerate(all_served)))
    await ask(all_served[0], 0, temperature=0.5, top_k=5, top_p=0.9, repetition_penalty=1.1, logprobs=1)
    await ask(all_served[0], 1, structured_outputs=StructuredOutputsParams(json_object=True))
