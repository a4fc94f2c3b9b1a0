"""Dropped files, as text. A file that cannot be read is refused during the upload, before it is part of a message."""

import uuid
from pathlib import PurePath
from typing import Annotated

from chainlit.auth import get_current_user
from chainlit.session import WebsocketSession
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from sllm.page.translations import texts_for

SUFFIXES = (".txt", ".md", ".csv", ".html", ".htm")
MAX_UNSENT = 20  # files of one tab that were dropped and not sent yet
CurrentUser = Annotated[object, Depends(get_current_user)]


class Unreadable(Exception):
    """`kind` is the key of the message in the translations, `values` are those that it requires."""

    def __init__(self, kind: str, **values):
        super().__init__(kind)
        self.kind, self.values = kind, values


def read(data: bytes, name: str, limit: int) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or CP949, as Korean Windows saves it.

    Args:
        limit: bytes.
    Raises:
        Unreadable: too large, of another kind, binary, empty, or in another encoding.
    """
    if PurePath(name).suffix.lower() not in SUFFIXES:
        raise Unreadable("file_kind", name=name)
    if len(data) > limit:
        raise Unreadable("file_too_large", name=name, size=len(data) / 2**20, limit=limit / 2**20)
    if b"\0" in data:
        raise Unreadable("file_binary", name=name)
    for encoding in ("utf-8-sig", "cp949"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not text.strip():
            raise Unreadable("file_empty", name=name)
        return text.replace("\r\n", "\n").strip("\n")
    raise Unreadable("file_encoding", name=name)


def install_upload(app: FastAPI, limit: int) -> None:
    """The route for files. Chainlit's, which accepts any file, is one of `security.CLOSED_ROUTES`. `limit`: bytes."""

    async def upload(request: Request, session_id: str, user: CurrentUser) -> JSONResponse:
        session = WebsocketSession.get_by_id(session_id)
        if session is None or user is None or session.user is None or session.user.identifier != user.identifier:
            raise HTTPException(401, "this session belongs to another user")
        try:
            async with request.form(max_files=1, max_fields=1) as form:
                file = form.get("file")
                if not hasattr(file, "read"):
                    raise HTTPException(400, "no file")
                data, name = await file.read(), file.filename or ""
        except ClientDisconnect:  # or a request that is too long
            raise HTTPException(413, "too large") from None
        try:
            text = read(data, name, limit)
        except Unreadable as error:
            text = texts_for(request.headers.get("accept-language"))[error.kind]
            raise HTTPException(400, text.format(**error.values | {"name": ""}).removeprefix(": ")) from None
        id = str(uuid.uuid4())
        session.files[id] = {"id": id, "name": name, "size": len(data), "text": text}
        for oldest in list(session.files)[:-MAX_UNSENT]:
            del session.files[oldest]
        return JSONResponse({"id": id})

    app.add_api_route("/project/file", upload, methods=["POST"])
    app.router.routes.insert(0, app.router.routes.pop())  # before Chainlit's route for every path
