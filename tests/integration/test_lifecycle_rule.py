"""The bucket's lifecycle rule that docs/store.md prints is one that a store takes."""

import asyncio
import json

from tests.testbed import SeaweedFS
from tests.testbed.pages import ROOT, Unrun, steps


async def test_the_lifecycle_rule_of_the_page_is_taken(seaweedfs: SeaweedFS, bucket: str) -> None:
    page = await asyncio.to_thread((ROOT / "docs" / "store.md").read_text, encoding="utf-8")
    (text,) = [
        step.text
        for step in steps(page)
        if isinstance(step, Unrun) and "AbortIncompleteMultipartUpload" in step.text
    ]
    rules, client = json.loads(text), seaweedfs.client()
    await asyncio.to_thread(
        client.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration=rules
    )
    taken = await asyncio.to_thread(client.get_bucket_lifecycle_configuration, Bucket=bucket)
    assert taken["Rules"] == rules["Rules"]
