"""What Prometheus is told: counts of requests, files and batches, under labels that clients cannot multiply."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from equiav.media.mux import wav_file
from samples import tone

pytestmark = pytest.mark.xdist_group("serve")


def counted(client):
    """name and labels → value."""
    text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


def test_requests_files_and_batches_are_counted(client):
    def of(name, **labels):
        key = (name, *sorted(labels.items()))
        return after.get(key, 0.0) - before.get(key, 0.0)

    before = counted(client)
    sound = wav_file(tone(0.7), 16_000)
    for content in (sound, sound, b"no media"):
        client.post("/v1/embed", files={"file": ("a", content)})
    for i in range(5):
        client.get(f"/v1/clips/none{i}")
        client.get(f"/elsewhere{i}")
    after = counted(client)
    assert of("equiav_requests_total", route="/v1/embed", status="200") == 2
    assert of("equiav_requests_total", route="/v1/embed", status="415") == 1
    assert of("equiav_requests_total", route="/v1/clips/{clip_id}", status="404") == 5
    assert of("equiav_requests_total", route="other", status="404") == 5
    assert of("equiav_request_seconds_count", route="/v1/embed") == 3
    assert of("equiav_refused_files_total", reason="not_media") == 1
    assert of("equiav_batch_files_sum") == 2
    assert after[("equiav_in_hand",)] == 0
    routes = {dict(key[1:]).get("route", "other") for key in after}
    assert not any("none" in route or "elsewhere" in route for route in routes)
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")
