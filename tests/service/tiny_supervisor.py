"""A supervisor of tiny roles: `python -m tests.service.tiny_supervisor MODE:FOLDER … [key=value …]`."""

from __future__ import annotations

import sys
from pathlib import Path

from stream_ad.service import logs
from stream_ad.service.supervisor import Supervisor

if __name__ == "__main__":
    roles = [item.split(":") for item in sys.argv[1:] if ":" in item]
    options = dict(item.split("=") for item in sys.argv[1:] if "=" in item)
    logs.configure("info", "json", {"role": "supervisor"})
    shell = Supervisor(
        {
            Path(folder).name: (sys.executable, "-m", "tests.service.tiny_role", mode, folder, "shutdown_s=60")
            for mode, folder in roles
        },
        heartbeat_timeout_s=float(options.get("heartbeat_s", 60)),
        shutdown_timeout_s=float(options.get("shutdown_s", 10)),
    )
    sys.exit(shell.run())
