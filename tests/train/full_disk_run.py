"""Trains on a file system that is too small, and again when it is larger; run by test_full_disk.py as its root.

Arguments: a folder, the size in bytes. Prints JSON: what the first run said and left, the digest of the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from toy import toy_model, toy_train, weights_digest

from hanse.errors import InputError


def main(folder: Path, size: int) -> dict[str, object]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    said = ""
    try:
        toy_train(folder)
    except InputError as error:
        said = str(error)
    left = sorted(path.name for path in (folder / "scratch").iterdir())
    subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
    model = toy_model()
    toy_train(folder, model=model)
    return {"said": said, "left": left, "digest": weights_digest(model)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
