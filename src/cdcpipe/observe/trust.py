"""Whom HTTPS clients of a monitor believe."""

from __future__ import annotations

import os
import ssl
from functools import cache

import httpx2

__all__ = ["authorities"]


@cache
def authorities() -> ssl.SSLContext:
    """The authority that SSL_CERT_FILE names, which Arrow believes too; else the public ones.

    Of the environment nothing else is taken: its proxies are not for servers of ours. One for all clients: each would
    keep the public authorities once more, in 1.4 MB.
    """
    file = os.environ.get("SSL_CERT_FILE")
    return ssl.create_default_context(cafile=file) if file else httpx2.create_ssl_context(trust_env=False)
