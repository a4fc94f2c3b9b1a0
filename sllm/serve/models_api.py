"""`/v1/models`, and the adapters that come and go."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sllm.serve import sse
from sllm.serve.models import Models


class LoadAdapter(BaseModel):
    """The fields of vLLM's endpoint of the same name."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str = Field(min_length=1, description="a folder of the server's machine")
    load_inplace: bool = Field(False, description="replace the adapter that has this name")


class UnloadAdapter(BaseModel):
    lora_name: str


def router(models: Models) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models")
    async def list_models():
        return sse.json_response({"object": "list", "data": models.cards()})

    @routes.get("/v1/models/{model:path}")
    async def one_model(model: str):
        return sse.json_response(models.card(models.find(model)))

    @routes.post("/v1/load_lora_adapter")
    async def load_lora_adapter(body: LoadAdapter):
        """Load an adapter into the running server. Needs the admin key."""
        served = await models.load(body.lora_name, body.lora_path, replace=body.load_inplace)
        return sse.json_response(models.card(served))

    @routes.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(body: UnloadAdapter):
        """Take an adapter out of the running server; requests that use it are answered to their end."""
        await models.unload(body.lora_name)
        return sse.json_response({"id": body.lora_name, "object": "model", "deleted": True})

    return routes
