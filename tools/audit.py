"""Looks up pinned packages in the public list of vulnerabilities: ``python tools/audit.py FILE``.

pip-audit passes over what its source does not answer for, so behind a mirror that has no such data
it finds nothing at all, and succeeds. Here that is a failure, and said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

NOT_LOOKED_UP = 2
"""Exit status when the answer is not known."""


def main(file: str) -> int:
    """Audit a requirements file, print what was found, and return the exit status."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "-r", file], capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        print(f"The list of vulnerabilities cannot be reached: {reason[0][:300]}")
        return NOT_LOOKED_UP
    lines, status = report(packages)
    print("\n".join(lines))
    return status


def report(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return what to say about pip-audit's findings, and the exit status."""
    lines = [
        f"{package['name']} {package['version']}: {flaw['id']}, "
        f"fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    status = 1 if lines else 0
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    looked_up = len(packages) - len(skipped)
    lines.append(f"{looked_up} of {len(packages)} packages looked up, {len(lines)} flaws found.")
    if skipped:
        lines.append(
            f"Nothing is known of {len(skipped)}, such as {', '.join(skipped[:5])}: the package "
            "index in use knows no vulnerabilities. Run this where the public one can be reached."
        )
        status = status or NOT_LOOKED_UP
    return lines, status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
