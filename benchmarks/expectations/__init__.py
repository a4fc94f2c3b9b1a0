"""What is expected of an OpenAI-compatible server, a module for each area. The modules register themselves; their order
here is that of the table."""

# isort: off
from expectations import chat
from expectations import completions
from expectations import sampling
from expectations import structured
from expectations import tools
from expectations import responses
from expectations import anthropic
from expectations import tokenize
from expectations import models
from expectations import errors
from expectations import http
from expectations import korean
from expectations import load
from expectations import operations
from expectations import security
from expectations import lora

__all__ = [
    "anthropic",
    "chat",
    "completions",
    "errors",
    "http",
    "korean",
    "load",
    "lora",
    "models",
    "operations",
    "responses",
    "sampling",
    "security",
    "structured",
    "tokenize",
    "tools",
]
