"""What does `equiav serve` bear, on the toy model?  python benchmarks/service.py [--seconds 300] [--hostile 10000]

Prints one JSON object. A library of `--clips` made-up clips is served by a process of its own.
- load: `--clients` clients for `--seconds`; of their requests a quarter cannot be answered. Statuses, milliseconds, and
  memory of the service and its processes, from a tenth of the time on.
- throughput: the same clients embed videos; the ceiling is `EquiAV.encode` of the same files in a plain loop, in
  batches of the size that the service had.
- hostile: so many requests that are spoilt, by schemathesis over the OpenAPI and by `ATTACKS`; after each kind a good
  request must work.
- seconds from the start to the first answer, and of a search by a sound of 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import torch
from prometheus_client.parser import text_string_to_metric_families

from _clips import make_library
from _common import environment
from equiav.config import ModelConfig, load_recipe
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.model.equiav import EquiAV
from equiav.search.embed import embed_library
from equiav.search.table import EmbeddedClips, EmbeddingsTable
from equiav.toyworld import make_world

FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
FORM = {"content-type": "multipart/form-data; boundary=x"}
MIB = 2**20

Rng = np.random.Generator
Attack = Callable[[Rng, httpx2.Client, list[bytes], str], int]


def make_served(folder: Path, clips: int) -> tuple[EquiAV, list[bytes], str]:
    """A model, a library that was embedded with it, videos to ask with, and a clip's id."""
    recipe = load_recipe("toy", [])
    config = ModelConfig(architecture=recipe.model, features=recipe.features, audio_mean=-6.0, audio_std=4.0)
    model = EquiAV(config, seed=0).eval()
    model.save_pretrained(folder / "run")
    make_world(folder / "videos", 16, seed=0)
    features = recipe.features.model_copy(update={"frames_per_clip": 1})
    ingest(folder / "videos", folder / "library", features)
    embed_library(Library(folder / "library"), model)
    clip = Library(folder / "library").all_ids()[0]
    library = make_library(folder / "library", clips, features)
    ids, rng, width = library.all_ids()[-clips:], np.random.default_rng(0), recipe.model.embedding
    vectors = rng.standard_normal((2, clips, width), dtype=np.float32)
    audio, visual = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    with EmbeddingsTable.for_writing(library.path, model.fingerprint(), width, library.features) as table:
        table.append(EmbeddedClips(ids, [b"\xff\xd8"] * clips, audio, visual))
    return model, [path.read_bytes() for path in sorted((folder / "videos").rglob("*.mp4"))], clip


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The service in a process of its own, and its address."""
    command = [sys.executable, "-m", "equiav", "serve", "-L", folder / "library", "-R", folder / "run", "--port", "0"]
    command += ["--timeout", "30", "--max-mb", "16", "--device", "cpu"]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "serving on" in line, line
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield psutil.Process(process.pid), line.split()[2]
    finally:
        process.terminate()
        process.wait(60)


def memory(process: psutil.Process) -> float:
    """MiB of the service and its decoders."""
    return sum(part.memory_info().rss for part in [process, *process.children(recursive=True)]) / MIB


def embed(client: httpx2.Client, content: bytes) -> int:
    return client.post("/v1/embed", files={"file": ("a", content)}).status_code


def ask(rng: Rng, client: httpx2.Client, videos: list[bytes], clip: str) -> int:
    """One request of the mixture: a quarter of them cannot be answered."""
    video = videos[rng.integers(len(videos))]
    requests: list[Callable[[], int]] = [
        lambda: embed(client, video),
        lambda: client.post("/v1/search", files={"file": ("a", video)}, data={"as": "audio"}).status_code,
        lambda: client.post("/v1/search", json={"clip": clip, "k": 10}).status_code,
        lambda: client.get(f"/v1/clips/{clip}").status_code,
        lambda: embed(client, video),
        lambda: client.get("/metrics").status_code,
        lambda: embed(client, video[: len(video) // 2]),
        lambda: client.post("/v1/search", json={"clip": "nobody"}).status_code,
    ]
    return requests[rng.integers(len(requests))]()


def load(address: str, clients: int, seconds: float, one: Callable[[Rng, httpx2.Client], int]) -> dict[str, Any]:
    """Clients that ask one request after the other: statuses, milliseconds, requests per second."""
    taken: list[tuple[int, float]] = []
    begun = time.monotonic()

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx2.Client(base_url=address, timeout=120) as client:
            while (now := time.monotonic()) < begun + seconds:
                status = one(rng, client)
                taken.append((status, time.monotonic() - now))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    spent = time.monotonic() - begun
    ms = np.array([took for _, took in taken]) * 1000
    statuses = Counter(status for status, _ in taken)
    return {
        "requests": len(taken),
        "per_second": round(len(taken) / spent, 1),
        "ok_per_second": round(statuses[200] / spent, 1),
        "statuses": dict(sorted(statuses.items())),
        "server_errors": sum(count for status, count in statuses.items() if status >= 500),
        **{f"p{q}_ms": round(float(np.percentile(ms, q)), 1) for q in (50, 95, 99, 100)},
    }


@contextmanager
def memory_watched(process: psutil.Process, seconds: float) -> Iterator[dict[str, float]]:
    """MiB from a tenth of the time on: at first, at most, at the end."""
    found: dict[str, float] = {}
    seen: list[float] = []
    end = threading.Event()

    def watch() -> None:
        end.wait(seconds / 10)
        while not end.wait(0.5):
            seen.append(memory(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join()
        first, most, last = (round(value, 1) for value in (np.median(seen[:5]), max(seen), np.median(seen[-5:])))
        found.update(first_mib=float(first), most_mib=float(most), last_mib=float(last))


def batch_size(address: str) -> tuple[float, float]:
    """Files embedded by the service so far, and batches."""
    text = httpx2.get(f"{address}/metrics").text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples["equiav_batch_files_sum"], samples["equiav_batch_files_count"]


def throughput(address: str, clients: int, seconds: float, model: EquiAV, videos: list[bytes]) -> dict[str, Any]:
    """Files per second by the service, and by `encode` in batches as large."""
    before = batch_size(address)
    found = load(address, clients, seconds, lambda rng, client: embed(client, videos[rng.integers(len(videos))]))
    files, batches = np.subtract(batch_size(address), before)
    size = max(round(files / batches), 1)
    loops = {threads: encoding(model, videos, size, seconds, threads) for threads in {1, torch.get_num_threads()}}
    return {
        "service": found,
        "files_per_batch": size,
        "encode_per_second": {f"{threads} threads": round(loop, 1) for threads, loop in loops.items()},
        "of_encode": round(found["ok_per_second"] / max(loops.values()), 3),
    }


def encoding(model: EquiAV, videos: list[bytes], size: int, seconds: float, threads: int) -> float:
    """Files per second of `encode` in a plain loop."""
    torch.set_num_threads(threads)
    model.encode(video=videos[:size], batch_size=size)  # what is loaded at the first call
    rng, done, begun = np.random.default_rng(0), 0, time.monotonic()
    while time.monotonic() < begun + seconds:
        model.encode(video=[videos[rng.integers(len(videos))] for _ in range(size)], batch_size=size)
        done += size
    return done / (time.monotonic() - begun)


def spoilt(rng: Rng, body: bytes) -> bytes:
    """With some of it cut, repeated or changed, mostly where headers are."""
    for _ in range(rng.integers(1, 5)):
        first, last = sorted(rng.integers(0, [min(len(body), 200), len(body)][rng.integers(2)] + 1, 2).tolist())
        body = body[:first] + [b"", body[first:last] * 2, rng.bytes(8)][rng.integers(3)] + body[last:]
    return body[: 1 << 20]


def raw(address: str, content: bytes) -> int:
    """The status of what answers bytes that are no request, 0 where the connection is closed."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(64)
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def attacks(address: str) -> dict[str, Attack]:
    def form(rng: Rng, client: httpx2.Client, videos: list[bytes], _: str) -> int:
        whole = FILE + videos[0][:3000] + b"\r\n--x--\r\n"
        return client.post("/v1/embed", content=spoilt(rng, whole), headers=FORM).status_code

    def media(rng: Rng, client: httpx2.Client, videos: list[bytes], _: str) -> int:
        return embed(client, spoilt(rng, videos[rng.integers(len(videos))]))

    def ranges(rng: Rng, client: httpx2.Client, _: list[bytes], clip: str) -> int:
        text = "".join(chr(c) for c in rng.integers(32, 127, rng.integers(1, 30))).strip()
        asked = [text, f"bytes={rng.integers(1 << 62)}-{rng.integers(1 << 62)}", "bytes=" + "0-," * 500][
            rng.integers(3)
        ]
        return client.get(f"/v1/clips/{clip}/media", headers={"Range": asked}).status_code

    def ids(rng: Rng, client: httpx2.Client, _: list[bytes], clip: str) -> int:
        odd = "".join(f"%{byte:02x}" for byte in rng.bytes(int(rng.integers(1, 40))))
        asked = ["..%2f..%2fetc%2fpasswd", odd, "%00" + clip, "a" * 5000, "'%20OR%20''='"][rng.integers(5)]
        return client.get(f"/v1/clips/{asked}" + ["", "/media", "/thumbnail"][rng.integers(3)]).status_code

    def queries(rng: Rng, client: httpx2.Client, _: list[bytes], clip: str) -> int:
        body = json.dumps({"clip": clip, "k": 3, "labels": ["a"], "start_s": 1.0, "by": "audio"}).encode()
        return client.post(
            "/v1/search", content=spoilt(rng, body), headers={"content-type": "application/json"}
        ).status_code

    def playlists(rng: Rng, client: httpx2.Client, _: list[bytes], __: str) -> int:
        named = [b"#EXTM3U\n#EXTINF:9,\n%s\n", b"ffconcat version 1.0\nfile '%s'\n"][rng.integers(2)]
        return embed(client, named % __file__.encode())

    def large(_: Rng, __: httpx2.Client, ___: list[bytes], ____: str) -> int:
        head = b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2147483648\r\n"
        return raw(address, head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + FILE)

    def strangers(rng: Rng, client: httpx2.Client, _: list[bytes], __: str) -> int:
        headers = [{"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}][rng.integers(2)]
        return client.get("/v1/runs", headers=headers).status_code

    def noise(rng: Rng, _: httpx2.Client, __: list[bytes], ___: str) -> int:
        return raw(address, rng.bytes(int(rng.integers(1, 2000))))

    kinds = (form, media, ranges, ids, queries, playlists, large, strangers, noise)
    return {kind.__name__: kind for kind in kinds}


def hostile(address: str, clients: int, requests: int, videos: list[bytes], clip: str) -> dict[str, Any]:
    """Statuses of each attack, and whether a good request worked after it; at most half of them are schemathesis's."""
    found: dict[str, Any] = {"schemathesis": generated(address, requests // 2)}
    kinds = attacks(address)
    each = -(-(requests - found["schemathesis"]["requests"]) // len(kinds))
    for name, attack in kinds.items():

        def run(seed: int, attack: Attack = attack) -> Counter[int]:
            rng = np.random.default_rng(seed)
            with httpx2.Client(base_url=address, timeout=120) as client:
                return Counter(attack(rng, client, videos, clip) for _ in range(-(-each // clients)))

        with ThreadPoolExecutor(clients) as pool:
            statuses = sum(pool.map(run, range(clients)), Counter[int]())
        found[name] = {"statuses": dict(sorted(statuses.items())), "next_works": works(address, videos)}
    return found


def generated(address: str, requests: int) -> dict[str, Any]:
    """What schemathesis makes of the OpenAPI."""
    paths = httpx2.get(f"{address}/openapi.json").json()["paths"]
    each = -(-requests // sum(map(len, paths.values())))
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--seed", "1", "--no-color"]
    command += ["--phases", "coverage,fuzzing", "-n", str(each), "--generation-database", "none"]
    command += ["--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
    made = re.search(r"(\d+) generated", done.stdout)
    return {"requests": int(made[1]) if made else 0, "exit_code": done.returncode}


def works(address: str, videos: list[bytes]) -> bool:
    """Whether a good request is answered."""
    with httpx2.Client(base_url=address, timeout=120) as client:
        return embed(client, videos[0]) == 200


def refused(address: str) -> dict[str, int]:
    """Files that the service could not use, by reason."""
    families = text_string_to_metric_families(httpx2.get(f"{address}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {s.labels["reason"]: int(s.value) for s in samples if s.name == "equiav_refused_files_total"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--clips", type=int, default=10_000)
    asked = parser.parse_args()
    os.environ.pop("EQUIAV_TOKEN", None)
    result: dict[str, Any] = {"environment": environment(), "asked": vars(asked)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, videos, clip = make_served(folder, asked.clips)
        begun = time.monotonic()
        with serving(folder) as (process, address):
            result["listening_s"] = round(time.monotonic() - begun, 2)
            while httpx2.get(f"{address}/readyz").status_code != 200:
                time.sleep(0.05)
            result["ready_s"] = round(time.monotonic() - begun, 2)
            with httpx2.Client(base_url=address, timeout=120) as client:
                sound, took = wav_file(np.sin(np.arange(160_000, dtype=np.float32) / 9), 16_000), list[float]()
                for _ in range(20):
                    now = time.monotonic()
                    client.post("/v1/search", files={"file": ("a", sound)}).raise_for_status()
                    took.append(time.monotonic() - now)
            result["search_by_10_s"] = {"first_s": round(took[0], 3), "median_s": round(float(np.median(took[1:])), 3)}
            with memory_watched(process, asked.seconds) as watched:
                mixed = load(address, asked.clients, asked.seconds, lambda rng, c: ask(rng, c, videos, clip))
            result["load"] = mixed | {"memory": watched, "refused_files": refused(address)}
            print(json.dumps(result), file=sys.stderr, flush=True)  # what there is, if it does not come to its end
            result["throughput"] = throughput(address, asked.clients, asked.seconds / 5, model, videos)
            result["throughput"]["refused_files"] = refused(address)
            result["hostile"] = hostile(address, asked.clients, asked.hostile, videos, clip)
            result["memory_after_all_mib"] = round(memory(process), 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
