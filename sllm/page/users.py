"""Who may log in: a file of `name:hash` lines, with passwords hashed by argon2id."""

import asyncio
import os
from pathlib import Path

from sllm.cli import InputError

WRONG_SECONDS = 1.0  # that a wrong password costs


def read(path: str) -> dict[str, str]:
    """{name: hash}; InputError, naming every line, for what is no entry."""
    if not Path(path).is_file():
        raise InputError(
            f"--users_file {path} does not exist; python chainlit_app.py --users_file {path} --add_user NAME"
        )
    found, problems = {}, []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not colon or not name or not hashed.startswith("$argon2id$"):
            problems.append(f"{path}:{number} is not name:hash; --add_user NAME writes such a line")
        found[name] = hashed
    if problems:
        raise InputError(problems)
    if not found:
        raise InputError(f"--users_file {path} has nobody in it; --add_user NAME adds somebody")
    return found


def add(path: str, name: str, password: str) -> None:
    """Write or replace one entry. The file is for its owner alone, and replaced as a whole."""
    from argon2 import PasswordHasher

    if not name.strip() or ":" in name or any(not sign.isprintable() for sign in name):
        raise InputError(f"{name!r} cannot be a user's name")
    if len(password) < 8:
        raise InputError("a password has 8 characters or more")
    file = Path(path)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    lines = [line for line in lines if line.partition(":")[0] != name] + [f"{name}:{PasswordHasher().hash(password)}"]
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.touch(mode=0o600)
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(new, file)


async def check(known: dict[str, str], name: str, password: str) -> bool:
    """In a thread, as hashing is slow on purpose. Somebody unknown costs as much time as a wrong password."""
    from argon2 import PasswordHasher
    from argon2.exceptions import VerificationError

    def verify() -> bool:
        hasher = PasswordHasher()
        try:
            return hasher.verify(known[name], password) if name in known else not hasher.hash(password)
        except VerificationError:
            return False

    if await asyncio.to_thread(verify):
        return True
    await asyncio.sleep(WRONG_SECONDS)
    return False
