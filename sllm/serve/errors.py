"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}; never a traceback or a path."""

from http import HTTPStatus

from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """An error that the client is told of."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict:
        return shape(self.status_code, self.detail, self.param, self.code)


def shape(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = code or HTTPStatus(status).phrase.lower().replace(" ", "_")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def too_busy(retry_after: int) -> ApiError:
    return ApiError(
        429,
        f"every place is taken; try again in {retry_after} s",
        code="server_busy",
        headers={"Retry-After": str(retry_after)},
    )
