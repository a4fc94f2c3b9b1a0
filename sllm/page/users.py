"""The users who may log in: a file of `name:hash` lines, with passwords hashed by argon2id."""

import os
from pathlib import Path

from sllm.cli import InputError


def read(path: str) -> dict[str, str]:
    """{name: hash}; InputError that names every line that is not an entry."""
    if not Path(path).is_file():
        raise InputError(
            f"--users_file {path} does not exist; python chainlit_app.py --users_file {path} --add_user NAME"
        )
    users, problems = {}, []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"--users_file {path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"--users_file {path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not colon or not name or not hashed.startswith("$argon2id$"):
            problems.append(f"{path}:{number} is not name:hash; --add_user NAME writes such a line")
        users[name] = hashed
    if problems:
        raise InputError(problems)
    if not users:
        raise InputError(f"--users_file {path} is empty; --add_user NAME adds a user")
    return users


def add(path: str, name: str, password: str) -> None:
    """Write or replace one entry. The file is readable by its owner only, and replaced as a whole."""
    from argon2 import PasswordHasher

    if not name.strip() or ":" in name or not name.isprintable():
        raise InputError(f"{name!r} cannot be a user name; use printable characters without a colon")
    if len(password) < 8:
        raise InputError("the password is too short; use 8 characters or more")
    file = Path(path)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    lines = [line for line in lines if line.partition(":")[0] != name] + [f"{name}:{PasswordHasher().hash(password)}"]
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.touch(mode=0o600)
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(new, file)


def verify(hashed: str | None, password: str) -> bool:
    """Slow on purpose. An unknown user (None) takes as long as a wrong password."""
    from argon2 import PasswordHasher
    from argon2.exceptions import VerificationError

    hasher = PasswordHasher()
    try:
        return hasher.verify(hashed, password) if hashed else not hasher.hash(password)
    except VerificationError:
        return False
