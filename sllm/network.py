"""The address that a server listens on. Standard library only."""

import errno
import socket
from ipaddress import ip_address

from sllm.cli import InputError


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"fails: {error.strerror}"
        raise InputError(f"{host}:{port} {reason}; choose another --host or --port") from None
    return sock


def url(host: str, sock: socket.socket) -> str:
    """The address to show for a socket that was bound to `host`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Can only this machine reach what listens on `host`?"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
