"""Checks the locked dependencies for known vulnerabilities, if a source of advisories can be reached.

pip-audit exits with the same status when it finds a vulnerability and when it cannot reach a source of advisories. This
script distinguishes the two.
"""

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Returns 1 if a locked dependency has a known vulnerability."""
    command = ["-m", "pip_audit", "--requirement", sys.argv[1], "--disable-pip", "--require-hashes"]
    done = subprocess.run(
        [sys.executable, *command, "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        sys.stdout.write(f"audit skipped: cannot reach a source of advisories ({reason})\n")
        return 0
    asked = [dependency for dependency in dependencies if "skip_reason" not in dependency]
    if not asked:
        sys.stdout.write("audit skipped: the source of advisories knows none of the dependencies\n")
        return 0
    found = [(one["name"], one["version"], bug["id"]) for one in asked for bug in one["vulns"]]
    for name, version, advisory in found:
        sys.stdout.write(f"{name} {version}: {advisory}\n")
    sys.stdout.write(f"audited {len(asked)} of {len(dependencies)} dependencies, known vulnerabilities: {len(found)}\n")
    return 1 if found else 0


if __name__ == "__main__":
    Path(sys.argv[1]).resolve(strict=True)
    sys.exit(main())
