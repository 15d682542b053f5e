"""Upload of an exported folder to the Hugging Face hub, with the login of `hf auth login` or `$HF_TOKEN`."""

import re
from pathlib import Path

from hdit_core.errors import HditError, UsageError, first_line
from hdit_core.remote_models import remote_address

NAME = r"[\w.-]+/[\w.-]+"
REPOSITORY = re.compile(rf"hf://({NAME})")


def hub_repository(target: Path | str) -> str | None:
    """Return the name of the repository that a target means, None for a local folder.

    Raises:
        UsageError: an address of another kind, to which nothing is uploaded.
    """
    address = remote_address(target)
    if address is None:
        return None
    match = REPOSITORY.fullmatch(address)
    if match is None:
        raise UsageError(f"--out {address}: expected a folder, or hf://OWNER/NAME without a path")
    return match[1]


def check_dataset(name: str) -> str:
    """Return the name of a data set on the hub, `"owner/name"` or `"name"`.

    Raises:
        UsageError: it is no such name.
    """
    if not re.fullmatch(rf"{NAME}|[\w.-]+", name, re.ASCII):
        raise UsageError(f"--dataset {name}: expected a data set of the Hugging Face hub, such as OWNER/NAME")
    return name


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload a folder as one commit and return the address of its page; the repository is created if it is missing.

    Args:
        folder: from `export`.
        repository: `"owner/name"`.
        public: whether a new repository is public; an existing one is not changed.

    Raises:
        UsageError: huggingface_hub is not installed.
        HditError: the hub refuses the upload, or cannot be reached.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UsageError(f"hf://{repository}: needs huggingface_hub; pip install 'hdit-toolkit[hub]'") from None
    api = HfApi()
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a model exported by hdit")
    except Exception as problem:  # the package has many kinds of errors of its own
        raise HditError(
            f"hf://{repository}: cannot be uploaded ({first_line(problem)}); have you logged in with `hf auth login`?"
        ) from None
    return str(url)
