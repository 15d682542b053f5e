"""The shell commands of the README and the documentation, and why some of them are not run by a test."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    r"^(PIP_CONSTRAINT=\S+ )?pip install |^npm |^python3 -m venv|\.venv/bin/activate": "installs packages",
    r"^make |^(PYTHON=\S+ )?sh benchmarks/matrix\.sh|^TESTS=": "runs the tests or the demo, which CI does",
    r"torchrun |^srun |^sbatch |^apptainer |^docker ": "needs several ranks, a cluster or containers",
    r"--device cuda": "needs a GPU",
    r"^python benchmarks/": "takes minutes, or needs other packages; tests/benchmarks has some",
    r"(hf|s3|gs)://": "needs a server; tests/remote_models has some",
    r"^hdit play ": "serves until it is stopped; tests/play has it",
    r"dinov2": "needs weights that are downloaded",
    r"blind_face_restoration|pmrf\.safetensors|imagenet_256x256_loguniform": "needs weights that others publish",
    r"--tracker ": "needs an account; tests/train/monitor has trackers",
    r"^hdit train mnist32-(sr|inpaint) |mapping_cond_dim": "trains with conditions; tests/train has some",
}
"""Patterns of commands that no test runs, and the reason. All other commands are run in a sandbox."""

PROGRAMS = ("hdit", "cd", "sbatch", "srun", "torchrun", "apptainer", "docker", "npm")  # on any machine

_FENCES = re.compile(r"^```(\w*)\n(.+?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class ShellLine:
    """A command of a document, without its comment."""

    document: str
    text: str

    @property
    def reason(self) -> str | None:
        """Why no test runs it; None if one does."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), None)

    def __str__(self) -> str:
        return f"{self.document}: {self.text[:70]}"


def is_command(line: str) -> bool:
    """Return whether a line of a code block begins with a program, or with an assignment before one."""
    word = line.split(" ")[0]
    is_known = word in PROGRAMS or bool(re.match(r"[A-Z_]+=\S* \w", line))
    return line.isascii() and (is_known or (word.islower() and bool(shutil.which(word))))


def shell_lines(path: Path) -> list[ShellLine]:
    """Return the commands of a document: in indented blocks, in `sh`, and after `$` in `console` blocks."""
    text = path.read_text().replace("\\\n", " ")
    lines = []
    for language, block in _FENCES.findall(text):
        if language == "console":
            lines += [line[2:] for line in block.splitlines() if line.startswith("$ ")]
        elif language in ("sh", "bash", "shell"):
            lines += block.splitlines()
    outside = _FENCES.sub("", text)
    lines += [line.strip() for line in re.findall(r"^    +(\S.*)$", outside, re.MULTILINE)]
    bare = [re.sub(r"\s+", " ", re.sub(r"(?:^|\s+)#\s.*$", "", line)).strip() for line in lines]
    return [ShellLine(path.name, line) for line in dict.fromkeys(bare) if is_command(line)]


def all_lines() -> list[ShellLine]:
    """Return the commands of all documents."""
    return [line for path in DOCUMENTS for line in shell_lines(path)]
