"""Credentials are in Secrets and in mounted files, and nowhere else: each generated value is looked for everywhere."""

from __future__ import annotations

import subprocess

import pytest

from cdcpipe.stack.kind import looking
from cdcpipe.stack.kind.stack import KindStack

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


def test_no_credential_stands_anywhere_but_in_secrets_and_their_mounts(kind_stack: KindStack) -> None:
    values = looking.credentials(kind_stack)
    searched = dict(looking.places(kind_stack))
    assert "${directory:/etc/cdcpipe/secrets:" in searched["connector configs"]
    assert "connector.class" in searched["Connect's config topic"]
    assert all("PATH=" in text for place, text in searched.items() if place.startswith("environment"))
    assert all(len(text) > 100 for text in searched.values()), {place: len(text) for place, text in searched.items()}
    assert {place: looking.leaks(values, text) for place, text in searched.items()} == dict.fromkeys(searched, 0)


def test_the_search_finds_each_credential_where_it_is(kind_stack: KindStack) -> None:
    values = looking.credentials(kind_stack)
    assert len(values) == 8
    secret = kind_stack.kube.secret("cdcpipe-credentials")
    assert secret is not None
    assert looking.leaks(values, secret["credentials.json"]) == 8
    listed = kind_stack.cluster.kubectl("-n", "cdcpipe", "get", "secret", "pipeline", "-o", "json", what="asking")
    assert looking.leaks(values, listed) == 3
    assert looking.leaks(values, kind_stack.kube.exec("connect-0", "cat /etc/cdcpipe/secrets/*")) == 3


def test_no_image_has_a_credential_or_a_place_for_one(kind_stack: KindStack) -> None:
    values = looking.credentials(kind_stack)
    for image in kind_stack.build():
        done = subprocess.run(
            ["docker", "image", "inspect", image.name], capture_output=True, text=True, check=True, timeout=60
        )
        assert looking.leaks(values, done.stdout) == 0
        listed = subprocess.run(
            ["docker", "run", "--rm", "--entrypoint", "/bin/sh", image.name, "-c", "ls -a /etc/cdcpipe /run/cdcpipe"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert listed.stdout == ""
