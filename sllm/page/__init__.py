"""The chat page: Chainlit callbacks over an OpenAI-compatible server, spoken to over HTTP only."""
