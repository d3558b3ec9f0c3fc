"""Whom HTTPS clients of a monitor believe."""

from __future__ import annotations

import os
import ssl

__all__ = ["authorities"]


def authorities() -> ssl.SSLContext | bool:
    """The authority that SSL_CERT_FILE names, which Arrow believes too; else the public ones.

    Of the environment nothing else is taken: its proxies are not for servers of ours.
    """
    file = os.environ.get("SSL_CERT_FILE")
    return ssl.create_default_context(cafile=file) if file else True
