"""The AWS CLI in an environment of its own, since it demands another botocore than boto3 here."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

PACKAGE = "awscli==1.46.2"
MADE_UP = {"AWS_ACCESS_KEY_ID": "embedded", "AWS_SECRET_ACCESS_KEY": "embedded", "AWS_DEFAULT_REGION": "us-east-1"}


class NotInstalled(Exception):
    pass


def install(folder: Path) -> Path:
    """Make an environment in `folder`; the path of its `aws`. Raises NotInstalled with pip's last line."""
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE)
    installed = subprocess.run(pip, check=False, capture_output=True, text=True, env=environment(), timeout=600)
    if installed.returncode:
        raise NotInstalled(f"{PACKAGE} cannot be installed: {(installed.stderr.strip().splitlines() or ['?'])[-1]}")
    return folder / "bin" / "aws"


def environment() -> dict[str, str]:
    """This process's environment without what would lead Python or AWS elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_"))}
    return {**kept, **MADE_UP, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
