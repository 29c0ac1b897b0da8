"""prices.set: one POST to the shop's price service, through the broker's proxy."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path

PROXY = ("127.0.0.1", 3128)
"""The broker's way out, inside the sandbox."""
SERVICE = "127.0.0.1:8077"
"""As the tool's specification lists it under ``egress``."""


def main() -> int:
    """Sends the change once; a failed attempt is not tried again, for it may have arrived."""
    arguments = json.loads(Path(os.environ["BROKER_ARGUMENTS"]).read_text("utf-8"))
    body = json.dumps({"item": arguments["item"], "cents": arguments["cents"]})
    connection = http.client.HTTPConnection(*PROXY, timeout=10)
    connection.request("POST", f"http://{SERVICE}/prices", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read(4096).decode("utf-8", "replace")
    sys.stdout.write(f"{answer.status} {text}\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
