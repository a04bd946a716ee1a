"""A small model to serve, and what all answers that are problems have."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx2

from equiav.config import ModelConfig
from equiav.model.equiav import EquiAV
from equiav.serve.limits import Limits
from samples import TINY
from tiny_library import SIZES

LIMITS = Limits(body_bytes=1 << 20, media_s=20.0, timeout_s=30.0, queue=8, workers=1)


def model(seed=0):
    return EquiAV(ModelConfig(architecture=SIZES, features=TINY, audio_mean=-6.0, audio_std=4.0), seed=seed).eval()


def problem_of(response, status):
    """What a problem says, which has all that a problem has and no more than a client may know."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == status
    assert found["request_id"] == response.headers["x-request-id"]
    assert "/tmp" not in response.text
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    return found


@contextmanager
def serve(library, run, temporary, *more, **environment):
    """Start `equiav serve`; its process, and its address when it is ready."""
    command = [sys.executable, "-m", "equiav", "serve", "-L", library, "-R", run, "--port", "0", *more]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
    )
    try:
        line = process.stderr.readline()
        assert "serving on http" in line, line + process.stderr.read()
        port = int(line.split(" (")[0].rpartition(":")[2])
        process.folder, process.port = temporary, port
        address = f"http://127.0.0.1:{port}"
        while httpx2.get(f"{address}/readyz").status_code != 200:
            time.sleep(0.1)
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
