#!/usr/bin/env bash
# PyAV 18.1.0 (SVT-AV1 4.1.0 inside): encoding one AV1 picture as root leaves the calling thread at real-time priority
# (SCHED_FIFO, 99), for good, also after the encoder is closed. In a container, where one often is root, whatever the process
# does next comes before all else on its core: on two cores two test workers starved every other process.
# Other encoders (libx264 here) leave the priority as it was. As another user nothing changes.
# Seen on 2026-11-27, Linux, Python 3.11, as root: the output is the last lines of this file. Exit 1 when it is another one.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run it as root: others may not have that priority"; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cat > "$folder/encode.py" <<'PY'
import io
import os

import av
import numpy

names = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO"}
for codec in ("libx264", "libsvtav1"):
    with av.open(io.BytesIO(), "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.zeros((64, 64, 3), numpy.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    print(av.__version__, codec, names[os.sched_getscheduler(0)], os.sched_getparam(0).sched_priority)
PY
"$folder/venv/bin/python" "$folder/encode.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
18.1.0 libx264 SCHED_OTHER 0
18.1.0 libsvtav1 SCHED_FIFO 99
SEEN
