"""How the server is: `/health`, `/ready`, `/version`, `/metrics`."""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from sllm.serve import sse
from sllm.serve.in_flight import State


def router(state: Callable[[], State]) -> APIRouter:
    """`state`: of the server."""
    from vllm import __version__

    routes = APIRouter(tags=["state"])

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health():
        """200 while the process and its engine live; 503 once the engine has exited."""
        dead = state() == State.DEAD
        return sse.json_response({"status": "dead" if dead else "ok"}, 503 if dead else 200)

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready")
    async def ready():
        """200 when requests are answered at once; 503 while loading, draining or stalled, and once dead."""
        return sse.json_response({"status": state()}, 200 if state() == State.READY else 503)

    @routes.get("/version")
    async def version():
        return sse.json_response({"version": __version__})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        """Prometheus: the server's (`sllm_…`) and the engine's (`vllm:…`)."""
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes
