"""LoRA by plain transformers + peft: a machine without a GPU, and models that unsloth cannot train.

The same functions with the same signatures as `with_unsloth`; a test compares them.
"""

import torch


def load_model(
    base: str, *, adapter: str | None, dtype: str, bits: int, max_seq_length: int, train: bool,
    gradient_checkpointing: bool,
):  # fmt: skip
    """The base model, with `adapter` on it where one is given.

    Args:
        dtype: auto, bfloat16, float16 or float32.
        bits: 4 and 8 quantise by bitsandbytes; 16 loads the weights as `dtype`.
        train: the adapter's weights will be trained.
    """
    import peft
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    compute_dtype = resolve_dtype(dtype)
    quantization = None
    if bits == 4:
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute_dtype}
        quantization = BitsAndBytesConfig(load_in_4bit=True, **nf4)
    elif bits == 8:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    device_map = {"": 0} if torch.cuda.is_available() else None
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=compute_dtype, quantization_config=quantization, device_map=device_map
    )
    if train and bits < 16:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=train)
    return model


def add_lora(model, config, *, seed: int, max_seq_length: int, gradient_checkpointing: bool):
    """A fresh adapter, computed in fp32. `config`: peft.LoraConfig."""
    import peft

    torch.manual_seed(seed)
    model = peft.get_peft_model(model, config)
    if gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def for_inference(model):
    """Switch to generation."""
    model.eval()


def for_training(model):
    model.train()


def resolve_dtype(dtype: str) -> torch.dtype:
    """auto: bfloat16 on a GPU (float16 on cards that only emulate it, such as a T4); float32 on a CPU, where training
    in it is exact."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
