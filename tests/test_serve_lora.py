"""Adapters that come, change and go while the server answers."""

import json
import shutil
import threading

import httpx
import pytest
from conftest import SAMPLE_ROWS
from safetensors.torch import load_file, save_file
from server_process import Running

pytestmark = pytest.mark.torch
ADMIN = {"Authorization": "Bearer boss"}
ROW = json.loads(SAMPLE_ROWS.read_text(encoding="utf-8").splitlines()[40])
MESSAGES = [{"role": "system", "content": ROW["system_prompt"]}, {"role": "user", "content": ROW["user_content"]}]


@pytest.fixture(scope="module")
def server(tiny_base):
    running = Running(
        "--model_id", tiny_base, "--served_model_name", "base", "--max_seq_length", 1024, "--max_tokens", 60,
        "--admin_key", "boss", "--max_loras", 2, "--max_num_seqs", 16,
    )  # fmt: skip
    yield running
    assert running.stop() == 0


def load(server, name: str, folder, **more) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(folder)} | more
    return httpx.post(server.url + "/v1/load_lora_adapter", json=body, headers=ADMIN, timeout=60)


def unload(server, name: str) -> httpx.Response:
    return httpx.post(server.url + "/v1/unload_lora_adapter", json={"lora_name": name}, headers=ADMIN, timeout=60)


def answer(server, model: str, **more) -> str:
    body = {"model": model, "messages": MESSAGES, "temperature": 0} | more
    found = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["message"]["content"]


def test_an_adapter_is_loaded_replaced_and_unloaded(server, sft_folder, dpo_folder):
    base = answer(server, "base")
    assert load(server, "mine", sft_folder).json()["parent"] == "base"
    assert [model["id"] for model in httpx.get(server.url + "/v1/models").json()["data"]] == ["base", "mine"]
    sft = answer(server, "mine")
    assert load(server, "mine", dpo_folder).status_code == 409
    assert load(server, "mine", dpo_folder, load_inplace=True).json()["kind"] == "dpo"
    dpo = answer(server, "mine")
    assert load(server, "mine", sft_folder, load_inplace=True).json()["kind"] == "sft"
    # the prefix cache holds the keys and values of the version before, under the same prompt
    assert answer(server, "mine") == sft
    assert answer(server, "base") == base
    assert sft != base
    assert load(server, "other", dpo_folder).status_code == 200
    assert answer(server, "other") == dpo
    assert "room for 2 adapters" in load(server, "third", dpo_folder).json()["error"]["message"]
    for name in ("mine", "other"):
        assert unload(server, name).json()["deleted"]
    missing = httpx.post(server.url + "/v1/chat/completions", json={"model": "mine", "messages": MESSAGES})
    assert missing.status_code == 404
    assert unload(server, "mine").status_code == 404
    assert unload(server, "base").status_code == 404  # not an adapter


def test_what_does_not_fit_is_refused_and_changes_nothing(server, tiny_base, sft_folder, tmp_path):
    def copy(name: str, **files: str):
        folder = tmp_path / name
        shutil.copytree(sft_folder, folder)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        return folder

    config = json.loads((sft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    template = (sft_folder / "chat_template.jinja").read_text(encoding="utf-8").replace("assistant", "assistent")
    cut = copy("cut")
    (cut / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    shape = copy("shape")
    tensors = load_file(shape / "adapter_model.safetensors")
    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file(tensors | {first: tensors[first][:, :-8].contiguous()}, shape / "adapter_model.safetensors")
    (shape / "run.json").unlink()  # whose hashes would tell first
    for folder, said in (
        ("/nothing", "adapter_config.json"),
        (tiny_base, "adapter_config.json"),
        (copy("broken", **{"adapter_config.json": "{"}), "adapter_config.json"),
        (copy("dora", **{"adapter_config.json": json.dumps(config | {"use_dora": True})}), "adapter_config.json"),
        (copy("template", **{"chat_template.jinja": template}), "chat_template.jinja"),
        (cut, "adapter_model.safetensors"),
        (shape, "features, where"),
    ):
        refused = load(server, "wrong", folder)
        assert refused.status_code in (400, 404), refused.text
        assert said in refused.json()["error"]["message"], refused.text
    assert [model["id"] for model in httpx.get(server.url + "/v1/models").json()["data"]] == ["base"]
    assert load(server, "base", sft_folder, load_inplace=True).status_code == 409


def test_models_share_equal_tokenizers_and_only_those(tiny_base, sft_folder, dpo_folder, tmp_path):
    """Each tokenizer keeps memory after its end, so a server that loads adapters for weeks must not add to them."""
    from sllm.serve import served_model

    def changed(name: str, file: str, old: str, new: str):
        folder = shutil.copytree(sft_folder, tmp_path / name)
        (folder / "run.json").unlink()
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        return str(folder)

    truncation = '{"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}'
    equal = {
        "sft": str(sft_folder), "dpo": str(dpo_folder),
        "truncating": changed("truncating", "tokenizer.json", '"truncation": null', f'"truncation": {truncation}'),
    }  # fmt: skip
    unequal = {
        "template": changed("template", "chat_template.jinja", "<|im_start|>", "<|im_start|> "),
        "split": changed("split", "tokenizer_config.json", "{", '{"split_special_tokens": true,'),
        "cut": changed("cut", "tokenizer_config.json", "{", '{"truncation_side": "left",'),
    }
    adapters = equal | unequal
    served = served_model.read_models(str(tiny_base), str(tiny_base), adapters, name="base", template="auto")
    by_name = {model.name: model.tokenizer for model in served}
    assert {name for name in adapters if by_name[name] is by_name["base"]} == equal.keys()
    assert len({id(tokenizer) for tokenizer in by_name.values()}) == 1 + len(unequal)


def test_versions_change_under_traffic_and_no_request_is_lost(server, sft_folder, dpo_folder):
    assert load(server, "mine", sft_folder).status_code == 200
    versions = {answer(server, "mine")}
    load(server, "mine", dpo_folder, load_inplace=True)
    versions.add(answer(server, "mine"))
    found, wrong, over = [], [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            body = {"model": "mine", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
            while not over.is_set():
                done = client.post(server.url + "/v1/chat/completions", json=body)
                if done.status_code != 200:
                    wrong.append(done.text)
                else:
                    found.append(done.json()["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(12):
        assert load(server, "mine", (sft_folder, dpo_folder)[number % 2], load_inplace=True).status_code == 200
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(found) > 4
    assert set(found) <= versions
    assert unload(server, "mine").status_code == 200
    server.wait_for(server.idle, 5)
