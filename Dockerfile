# The demo in a container: the build runs the two commands of README on a bare machine. For serving, see deploy/.
#
#   docker build -t hangyeol-demo .
#   docker run --rm --network host hangyeol-demo     # the chat page, at http://127.0.0.1:8501
FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make gcc g++ libc6-dev libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /hangyeol
COPY . .
RUN make demo
# The build fails if the page does not answer.
RUN make serve & server=$!; \
    until python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/health')" 2>/dev/null; do \
      kill -0 $server || exit 1; sleep 1; \
    done; \
    kill $server; wait $server || true
CMD ["make", "serve"]
