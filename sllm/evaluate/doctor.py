"""What can be wrong with a model or adapter folder from any tool, as far as that shows without its data.

Each check returns what it saw, or raises `InputError` with what is wrong and how to fix it, `Note` with what may be
meant so, or `NotChecked` with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sllm import checkpoint, cli, finite
from sllm.cli import InputError
from sllm.evaluate import tokenizer_checks, weight_checks
from sllm.evaluate.model_folder import Folder, NotChecked, Note


@dataclass(frozen=True)
class Finding:
    """`state`: ok, note, wrong, or `-` for what was not checked."""

    check: str
    state: str
    texts: list[str]


def files(folder: Folder) -> str:
    try:
        base, adapter = checkpoint.require_model(str(folder.path), base_model=folder.base_model)
    except InputError as error:
        not_finite = finite.problems(folder.path)  # the next check's to say
        if problems := [problem for problem in error.problems if problem not in not_finite]:
            raise InputError(problems) from None
        return "whole"
    return f"whole; its base is {base}" if adapter else "whole"


CHECKS: dict[str, Callable[[Folder], str]] = {
    "files and base": files, "weights": weight_checks.finite_weights,
    "chat template": tokenizer_checks.template, "special tokens": tokenizer_checks.special_tokens,
    "end of turn": tokenizer_checks.end_of_turn, "padding": tokenizer_checks.padding, "BOS": tokenizer_checks.bos,
    "history": tokenizer_checks.history, "vocabulary": weight_checks.vocabulary,
    "adapter and base": weight_checks.adapter_shapes, "LoRA learned": weight_checks.learned,
    "quantisation": weight_checks.quantisation,
}  # fmt: skip


def examine(
    path: str | Path, *, base_model: str | None = None, more: dict[str, Callable[[Folder], str]] | None = None
) -> list[Finding]:
    """Run every check on a folder. `more`: further ones, by their names."""
    folder = Folder(Path(path), base_model)
    if not (folder.adapter or (folder.path / "config.json").is_file()):
        raise InputError(f"{path} is neither a model (config.json) nor an adapter (adapter_config.json)")
    findings = []
    for name, check in {**CHECKS, **(more or {})}.items():
        try:
            findings.append(Finding(name, "ok", [check(folder)]))
        except NotChecked as reason:
            findings.append(Finding(name, "-", [f"not checked: {reason}"]))
        except Note as note:
            findings.append(Finding(name, "note", [str(note)]))
        except InputError as error:
            findings.append(Finding(name, "wrong", error.problems))
        except Exception as error:  # a broken folder may lead a library to any
            kind = f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
            findings.append(Finding(name, "wrong", [f"cannot be checked ({kind}); get the folder again"]))
    return findings


def report(path: str | Path, findings: list[Finding]) -> dict[str, str]:
    """Print a line for each check; returns their states. CheckFailed where something is wrong."""
    for finding in findings:
        for text in finding.texts:
            print(f"{finding.state:<7}{finding.check:<18}{text}")
    if wrong := [finding.check for finding in findings if finding.state == "wrong"]:
        raise cli.CheckFailed(f"{path}: {cli.plural(len(wrong), 'check')} failed: {', '.join(wrong)}")
    return {finding.check: finding.state for finding in findings}
