"""A relay in front of a Redis, over TCP or TLS, whose connections a test can cut."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.support.relay import Relay

# A self-signed key for "localhost" and 127.0.0.1, until 2120.
KEY = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzZHqIvIFGW3ylDTA
4lqk/YQ4NUnmohx2PXR8G5QPKJuhRANCAARtd4qAwTySATqYhcPIFz87GbENNVpo
mRXrKYEO3e3FN4RD0lVjf4Dn67ncfrfImO4qwoo4AZ9/9q31GZY/mZj5
-----END PRIVATE KEY-----
"""
CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBZjCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABG13ioDBPJIBOpiF
w8gXPzsZsQ01WmiZFespgQ7d7cU3hEPSVWN/gOfrudx+t8iY7irCijgBn3/2rfUZ
lj+ZmPmjTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBTo6OtSjI6aXWurv4Y0xd/TSqNGczAKBggqhkjOPQQD
AgNHADBEAiBMD+DDtiWiQlUJqXN1RV24pyG3QYcZiPms26rIDnNz4gIgZcedLrU1
wHXF9uLDsEwBolKi0zWMqO7GrfeJoodeulQ=
-----END CERTIFICATE-----
"""


class RedisRelay(Relay):
    """Listen on a port of this machine and forward to a Redis on a Unix socket.

    Args:
        url: the Redis: unix://PATH.
        folder: where to put the certificate; with it, the relay speaks TLS.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self._tls: ssl.SSLContext | None = None
        self.certificate = None
        if folder is not None:
            self.certificate = folder / "certificate.pem"
            self.certificate.write_text(KEY.lstrip() + CERTIFICATE.lstrip())
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(self.certificate)
        super().__init__(url)

    def lead_to(self, url: str) -> None:
        self._target = url.removeprefix("unix://")

    def _url(self, url: str, host: str, port: int) -> str:
        return f"redis{'s' if self._tls else ''}://{host}:{port}/0"

    def _welcome(self, client: socket.socket) -> socket.socket:
        if self._tls is None:
            return client
        client.settimeout(60)  # or two threads would be inside of one TLS connection
        return self._tls.wrap_socket(client, server_side=True)
