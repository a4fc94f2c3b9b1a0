"""Hub ids: what of them lies in the local cache, and whether the Hub answers, said before a library waits for it.

Standard library only, until an id is looked up: then huggingface_hub's settings and cache are the ones that count.
"""

import functools
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from sllm import hashes
from sllm.cli import InputError
from sllm.disk import gib

SECONDS = 5  # to wait for the Hub's answer
_CONFIGS = ("config.json", "adapter_config.json")
_taken_from_cache: dict[str, str] = {}  # repository → why the Hub was not asked for it


def is_id(text: str) -> bool:
    """Does this name a Hub repository (org/name), and no folder?"""
    shape = re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith(("./", "../", "outputs/"))
    return bool(shape) and not Path(text).exists()


def snapshot(repository: str) -> Path | None:
    """The folder of a Hub repository's files in the local cache, of its main branch as last seen; None without one."""
    if not is_id(repository):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = [try_to_load_from_cache(repository, name) for name in _CONFIGS]
    except HFValidationError:
        return None
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def commit(repository: str) -> str | None:
    """The commit of the cached copy; None without one."""
    folder = snapshot(repository)
    return folder.name if folder else None


def require(repository: str, hint: str = "") -> None:
    """InputError in a few seconds where a Hub id can be had neither from the cache nor from the Hub.

    Args:
        hint: the end of the error.

    Where the Hub cannot be reached and the copy in the cache is whole, huggingface_hub is told to work offline: it
    would ask for every file several times before it took the copy.
    """
    from huggingface_hub import constants

    folder = snapshot(repository)
    complete = folder is not None and hashes.has_all_weights(folder)
    offline = constants.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if offline else _why_not(repository)
    if reason is None:
        return
    if complete:
        if not offline:
            _taken_from_cache[repository] = reason
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return
    state = "only in part in the local cache" if folder else "not in the local cache"
    if not offline and not reason.startswith("cannot"):
        raise InputError(f"{repository}: {reason}{hint}")
    host = "" if offline else f"the Hub ({constants.ENDPOINT}) "
    raise InputError(
        f"{repository} is {state} and {host}{reason}; download it where the Hub can be reached, or name a folder{hint}"
    )


def notes(repository: str) -> list[str]:
    """A line to print: that the copy in the cache was taken because the Hub did not answer, or how much will be
    downloaded."""
    if reason := _taken_from_cache.get(repository):
        return [f"the Hub {reason}: {repository} is the copy in the local cache"]
    size = _download_size(repository)
    return [f"{repository}: {gib(size)} to download from the Hub"] if size else []


@functools.cache
def _download_size(repository: str) -> int:
    """Bytes of a repository that is not in the cache: its small files and its weights, as safetensors where it has
    them. 0 where nobody can say."""
    from huggingface_hub import HfApi, constants

    folder = snapshot(repository)
    if not is_id(repository) or constants.HF_HUB_OFFLINE or (folder is not None and hashes.has_all_weights(folder)):
        return 0
    try:
        files = HfApi(constants.ENDPOINT).model_info(repository, files_metadata=True, timeout=SECONDS).siblings or []
    except Exception:  # of any library that it talks through: a size is not worth an error
        return 0
    sizes = {
        file.rfilename: file.size or 0 for file in files if "/" not in file.rfilename
    }  # loaders read the root only
    named = [name for name in sizes if re.fullmatch(r"model.*\.safetensors", name)]
    named = named or [name for name in sizes if re.fullmatch(r"pytorch_model.*\.bin", name)]
    named += [name for name in sizes if name.endswith((".json", ".txt", ".model"))]
    return sum(sizes[name] for name in named)


@functools.cache  # a server asks for each of its adapters
def _why_not(repository: str) -> str | None:
    """What keeps the Hub from serving a repository, as it answers within `SECONDS`; None where nothing does.

    In a thread, because a name that cannot be resolved waits for longer than any timeout of a socket.
    """
    answer: list[str | None] = []
    asking = threading.Thread(target=lambda: answer.append(_ask(repository)), daemon=True)
    asking.start()
    asking.join(SECONDS)
    return answer[0] if answer else f"cannot be reached (no answer in {SECONDS} s)"


def _ask(repository: str) -> str | None:
    from huggingface_hub import constants, get_token

    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{_CONFIGS[0]}"
    request = urllib.request.Request(url, method="HEAD")
    token = get_token()
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        return _refused(error.code, error.headers.get("X-Error-Code", ""))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # it was reached; huggingface_hub may know a certificate that Python lacks
            return None
        return f"cannot be reached ({urlsplit(url).hostname}: {reason})"
    return None


def _refused(status: int, code: str) -> str | None:
    """What the Hub's refusal means for the user; None for an answer that is not a refusal of the repository."""
    if code == "GatedRepo" or status == 403:
        return "access is restricted; request it on the model's Hub page, then run `hf auth login`"
    if code in ("RepoNotFound", "RevisionNotFound") or status == 401:
        return "neither a folder nor a public repository of the Hub; check the name, or run `hf auth login`"
    return f"cannot serve it now (status {status})" if status >= 500 else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: the file is there."""

    def redirect_request(self, *args, **kwargs):
        return None
