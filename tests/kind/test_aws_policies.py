"""deploy/aws: what the role may do and what the bucket refuses, tried against an S3 server with an STS.

The documents are the templates that Terraform fills in. SeaweedFS stands in for AWS: it evaluates the same policy
language, and its STS checks tokens against the issuer's keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.kind.web_identity import Issuer, Server, facts_of, policy, server

AWS = Path(__file__).parents[2] / "deploy" / "aws"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def s3(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("s3"), issuer) as made:
        with contextlib.closing(made.client("s3")) as admin:
            admin.create_bucket(Bucket="lake")
            admin.put_object(Bucket="lake", Key="warehouse/there", Body=b"1")
            admin.put_object(Bucket="lake", Key="other/there", Body=b"1")
        yield made


@pytest.fixture(scope="module")
def sink(s3: Server, issuer: Issuer) -> Iterator[Any]:
    with contextlib.closing(s3.client("s3", s3.assume(issuer.token()))) as client:
        yield client


def _refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def test_the_role_is_assumed_with_the_service_accounts_token_and_no_key(s3: Server, issuer: Issuer) -> None:
    keys = s3.assume(issuer.token())
    assert keys["SessionToken"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "system:serviceaccount:cdcpipe:registry"},
        {"subject": "system:serviceaccount:default:connect"},
        {"audience": "https://kubernetes.default.svc"},
        {"forged": True},
    ],
    ids=["another account", "another namespace", "another audience", "another signer"],
)
def test_no_other_token_assumes_the_role(s3: Server, issuer: Issuer, wrong: dict[str, Any]) -> None:
    arguments = {"subject": "system:serviceaccount:cdcpipe:connect", **wrong}
    assert _refused(lambda: s3.assume(issuer.token(**arguments))) in ("AccessDenied", "InvalidParameterValue")


def test_the_role_reads_and_adds_below_its_prefix(sink: Any) -> None:
    sink.put_object(Bucket="lake", Key="warehouse/new", Body=b"2", ServerSideEncryption="AES256")
    assert sink.get_object(Bucket="lake", Key="warehouse/new")["Body"].read() == b"2"
    assert sink.list_objects_v2(Bucket="lake", Prefix="warehouse/")["KeyCount"] >= 2


def test_the_role_uploads_in_parts(sink: Any) -> None:
    part = b"x" * (5 << 20)
    upload = sink.create_multipart_upload(Bucket="lake", Key="warehouse/large", ServerSideEncryption="AES256")
    where = {"Bucket": "lake", "Key": "warehouse/large", "UploadId": upload["UploadId"]}
    sent = sink.upload_part(**where, PartNumber=1, Body=part)
    sink.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]})
    assert sink.head_object(Bucket="lake", Key="warehouse/large")["ContentLength"] == len(part)


@pytest.mark.parametrize(
    "call",
    [
        lambda s3: s3.list_objects_v2(Bucket="lake"),
        lambda s3: s3.list_objects_v2(Bucket="lake", Prefix="other/"),
        lambda s3: s3.get_object(Bucket="lake", Key="other/there"),
        lambda s3: s3.put_object(Bucket="lake", Key="other/new", Body=b"", ServerSideEncryption="AES256"),
        lambda s3: s3.delete_object(Bucket="lake", Key="warehouse/there"),
        lambda s3: s3.put_bucket_policy(Bucket="lake", Policy=json.dumps({"Version": "2012-10-17", "Statement": []})),
        lambda s3: s3.delete_bucket(Bucket="lake"),
        lambda s3: s3.create_bucket(Bucket="another"),
    ],
    ids=[
        "list everything",
        "list elsewhere",
        "read elsewhere",
        "write elsewhere",
        "delete",
        "change the bucket policy",
        "delete the bucket",
        "make a bucket",
    ],
)
def test_the_role_may_nothing_else(sink: Any, call: Callable[[Any], object]) -> None:
    assert _refused(lambda: call(sink)) == "AccessDenied"


@pytest.fixture
def guarded(s3: Server, issuer: Issuer, sink: Any) -> Iterator[Any]:
    """The sink's client while the bucket has its policy."""
    document = policy("bucket", **facts_of(issuer))
    with contextlib.closing(s3.client("s3")) as admin:
        admin.put_bucket_policy(Bucket="lake", Policy=json.dumps(document))
        yield sink
        admin.delete_bucket_policy(Bucket="lake")


def test_the_bucket_refuses_plain_http_to_everybody(s3: Server, issuer: Issuer, guarded: Any) -> None:
    with contextlib.closing(s3.client("s3", s3.assume(issuer.token()), tls=False)) as plain:
        assert _refused(lambda: plain.get_object(Bucket="lake", Key="warehouse/there")) == "AccessDenied"
    assert guarded.get_object(Bucket="lake", Key="warehouse/there")["Body"].read() == b"1"


def test_the_bucket_refuses_puts_that_ask_for_no_encryption_or_another(s3: Server, guarded: Any) -> None:
    # With keys: for a session SeaweedFS judges a bucket policy a second time, without the request's headers.
    with contextlib.closing(s3.client("s3", name="writer")) as writer:

        def put(**encryption: str) -> object:
            return writer.put_object(Bucket="lake", Key="warehouse/encrypted", Body=b"1", **encryption)

        assert _refused(put) == "AccessDenied"
        assert _refused(lambda: put(ServerSideEncryption="aws:kms")) == "AccessDenied"
        put(ServerSideEncryption="AES256")


# The module ---------------------------------------------------------------------------------------


def _module() -> dict[str, dict[str, Any]]:
    """`type.name` -> arguments of each resource."""
    hcl2: Any = pytest.importorskip("hcl2", reason="needs python-hcl2, which reads Terraform's language")
    found = {}
    for file in sorted(AWS.glob("*.tf")):
        with file.open(encoding="utf-8") as text:
            for block in hcl2.load(text).get("resource", []):
                for kind, named in block.items():
                    for name, arguments in named.items():
                        found[f"{kind.strip(chr(34))}.{name.strip(chr(34))}"] = arguments
    return found


def test_the_module_makes_no_access_key_and_no_public_bucket() -> None:
    module = _module()
    assert not [name for name in module if name.startswith(("aws_iam_access_key", "aws_iam_user"))]
    block = module["aws_s3_bucket_public_access_block.archive"]
    rules = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert [block[rule] for rule in rules] == [True] * 4


def test_the_module_uses_every_policy_that_is_tried_here() -> None:
    used = re.findall(r"policies/(\w+)\.json", (AWS / "main.tf").read_text(encoding="utf-8"))
    assert sorted(used) == sorted(path.stem for path in (AWS / "policies").glob("*.json"))


def test_the_policies_name_no_wildcard_action_or_resource() -> None:
    for statement in json.loads((AWS / "policies" / "role.json").read_text())["Statement"]:
        assert all("*" not in action for action in statement["Action"])
        assert all(resource.startswith("arn:aws:s3:::${bucket}") for resource in statement["Resource"])


def test_no_current_object_of_the_archive_ever_expires() -> None:
    rules = _module()["aws_s3_bucket_lifecycle_configuration.archive"]["rule"]
    assert len(rules) == 3
    for rule in rules:
        for expiration in rule.get("expiration", []):
            assert set(expiration) - {"__is_block__"} == {"expired_object_delete_marker"}


@pytest.mark.skipif(shutil.which("terraform") is None, reason="needs terraform, for its formatter")
def test_the_module_is_formatted() -> None:
    done = subprocess.run(
        ["terraform", f"-chdir={AWS}", "fmt", "-check", "-diff"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stdout
