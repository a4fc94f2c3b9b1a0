"""uvicorn's HTTP/1.1 protocol over h11, with time limits for connections that say nothing or half a request."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0  # from the first byte of a request, or from connecting, to the end of its headers


class ChunkedStreamConnection(h11.Connection):
    """h11 as a server, which writes the chunks of a stream without its checks: they cost a tenth of this process under
    load. (After the headers of a chunked response its state stays the same until the end of the message.)"""

    _chunked = False

    def send(self, event) -> bytes | None:
        if self._chunked and type(event) is h11.Data and event.data:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data)
        data = super().send(event)
        if type(event) is h11.Response:
            self._chunked = self.our_state is h11.SEND_BODY and b"\r\ntransfer-encoding: chunked\r\n" in data.lower()
        elif type(event) is h11.EndOfMessage:
            self._chunked = False
        return data


class Connection(H11Protocol):
    """h11 refuses headers without end, and answers what a client asks to upgrade to (`Upgrade: h2c`, which Java's and
    curl's HTTP/2 clients send) with HTTP/1.1, body and all. uvicorn closes connections that are idle between two
    requests; those that never finish a first one are closed here."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.conn = ChunkedStreamConnection(h11.SERVER, config.h11_max_incomplete_event_size)

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._limit is None:
            self._limit = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._clear()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._limit is None and self.conn.trailing_data[0]:  # the beginning of a next request came with the last
            self._limit = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def connection_lost(self, exc) -> None:
        self._clear()
        super().connection_lost(exc)

    def _clear(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self) -> None:
        self._limit = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
