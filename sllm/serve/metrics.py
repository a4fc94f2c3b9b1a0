"""Prometheus metrics of the server; the engine adds its own (`vllm:…`)."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("sllm_requests_total", "Requests answered", ["path", "status"])
TOKENS = Counter("sllm_tokens_total", "Tokens", ["model", "kind"])
TTFT = Histogram("sllm_first_token_seconds", "Arrival of a streamed request to its first piece", ["model"])
LATENCY = Histogram("sllm_request_seconds", "Arrival to the end of the answer", ["path"])
IN_FLIGHT = Gauge("sllm_requests_in_flight", "Requests that have not been answered to their end")
SEQUENCES = Gauge("sllm_sequences_in_flight", "Sequences that run or wait in the engine")
