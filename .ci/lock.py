"""Write requirements.lock and environment.yml from pyproject.toml's pins (run by `make lock`).

pip resolves the project with its extras `book`, `test` and `text` in an empty environment; what it would install is the
lock. Three things differ from pip's answer, so that one file serves Linux and macOS and every Python 3.11:

* a local version such as ``+cpu`` is cut off, since it names a build and not a release;
* packages that another system needs in addition stand in ``ELSEWHERE`` with their marker;
* releases that need a later patch of Python than a distribution ships are kept out by ``CONSTRAINTS``.

torch's own CUDA packages are not listed: its wheel for Linux names them itself with exact versions. environment.yml,
which Binder builds, asks PyTorch's own index as well, whose CPU build is the higher version of the same number.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "book,test,text"
ELSEWHERE = ["appnope==0.1.4 ; sys_platform == 'darwin'"]
CONSTRAINTS = ["soupsieve<3.0.2"]  # later ones need Python 3.11.5, and Debian 12 has 3.11.2
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
HEADER = f"# Exact pins of medyate[{EXTRAS}] with everything they pull in. Written by `make lock`; do not edit.\n"


def resolve() -> list[str]:
    """What pip would install into an empty environment for the project, as sorted ``name==version`` lines."""
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        report, constraints = Path(place, "report.json"), Path(place, "constraints.txt")
        constraints.write_text("\n".join(CONSTRAINTS) + "\n")
        pip = [Path(place, "bin", "python"), "-m", "pip", "install", "--quiet", "--dry-run", "--report", report]
        subprocess.run([*pip, "-c", constraints, f"{ROOT}[{EXTRAS}]"], check=True)
        installed = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = [
        f"{item['name'].lower().replace('_', '-')}=={item['version'].split('+')[0]}"
        for item in installed
        if item["name"] != "medyate"
    ]
    return sorted(pins + ELSEWHERE)


def main() -> int:
    pins = resolve()
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(pins) + "\n")
    conda = ["name: medyate", "channels:", "  - conda-forge", "dependencies:", "  - python=3.11", "  - pip", "  - pip:"]
    conda += [f'      - "--extra-index-url {CPU_BUILDS}"']
    conda += [f'      - "{pin}"' for pin in pins] + ['      - "-e ."']
    (ROOT / "environment.yml").write_text(HEADER + "\n".join(conda) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
