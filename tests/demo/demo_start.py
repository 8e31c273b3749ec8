"""Seconds from `python -m demo` to its first page, and to the page itself: `python tests/demo/demo_start.py`."""

import subprocess
import sys
import time
import urllib.error
import urllib.request

ADDRESS = "http://127.0.0.1:7993/"
NAMES = {503: "the first page", 200: "the page"}


def status() -> int | None:
    try:
        with urllib.request.urlopen(ADDRESS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


began, seen = time.perf_counter(), set()
demo = subprocess.Popen([sys.executable, "-m", "demo", "--port", "7993"])
while demo.poll() is None and 200 not in seen:
    found = status()
    if found in NAMES and found not in seen:
        print(f"{NAMES[found]}: {time.perf_counter() - began:.2f} s", flush=True)
        seen.add(found)
    time.sleep(0.01)
demo.terminate()
demo.wait()
