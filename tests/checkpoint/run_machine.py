"""A run that saves, dies while saving, finds the disk full, and whose files rot: in any order one can think of.

However it goes, an operation of ours leaves at least two intact checkpoints where there were two, never loses the
newest, and damages none.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.retention import is_intact
from hdit_core.errors import CheckpointError
from hdit_core.files import DigestingWriter, remove_temporaries
from tests.checkpoint.interrupted import save

DIED, REFUSED = 9, 4
OPERATIONS = st.integers(1, 32)


def in_a_process_that(fails, at, act):
    """Run `act` in a forked process in which the operation on files number `at` does not come about.

    Args:
        fails: `"dies"`, or `"is full"`: from there on nothing can be written, but removed.

    Returns:
        The exit code: 0, DIED or REFUSED.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real, writes=False):
            def call(*args, **options):
                nonlocal count
                count += 1
                if count == at and fails == "dies":
                    os._exit(DIED)
                if count >= at and fails == "is full" and writes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args, **options)

            return call

        os.fsync, DigestingWriter.write = counted(os.fsync, writes=True), counted(DigestingWriter.write, writes=True)
        Path.mkdir, Path.write_text = counted(Path.mkdir, writes=True), counted(Path.write_text, writes=True)
        Path.rename, os.unlink, os.rmdir = counted(Path.rename), counted(os.unlink), counted(os.rmdir)
        try:
            act()
        except CheckpointError:
            os._exit(REFUSED)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class RunMachine(RuleBasedStateMachine):
    """A run, and its expected contents."""

    def __init__(self, changed):
        super().__init__()
        self.changed = changed
        self.run = Path(tempfile.mkdtemp(prefix="hdit-run-machine-"))
        self.step, self.rotten = 0, set()

    def teardown(self):
        shutil.rmtree(self.run)

    @initialize(keep=st.integers(2, 4), for_ever=st.sampled_from([0, 16, 40]))
    def begin(self, keep, for_ever):
        values = {"train.checkpoint_every_images": 8, "train.keep_every_images": for_ever}
        self.recipe = self.changed({"train.keep_checkpoints": keep} | values)

    @rule()
    def saves(self):
        before = self._intact()
        self.step += 1
        save(self.run, self.recipe, self.step)
        self._check(before | {self.step})
        assert self._intact() >= set(sorted(before | {self.step})[-self.recipe.train.keep_checkpoints :])

    @rule(fails=st.sampled_from(["dies", "is full"]), at=OPERATIONS)
    def is_interrupted_while_it_saves(self, fails, at):
        before = self._intact()
        self.step += 1
        code = in_a_process_that(fails, at, lambda: save(self.run, self.recipe, self.step))
        assert code in (0, DIED, REFUSED)
        self._check(before | ({self.step} if code == 0 else set()))
        self._begins_again()

    @rule()
    def is_stopped_and_begins_again(self):
        before = self._intact()
        self._begins_again()
        assert self._intact() == before

    @precondition(lambda self: len(self._intact()) > 1)
    @rule(data=st.data(), whole=st.sampled_from(["flipped", "cut", "gone"]))
    def rots(self, data, whole):
        folder = checkpoint_folder(self.run, data.draw(st.sampled_from(sorted(self._intact()))))
        file = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if whole == "gone":
            file.unlink()
        elif whole == "cut":
            file.write_bytes(content[:place])
        else:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content)
        if not is_intact(folder):
            self.rotten.add(int(folder.name[-9:]))

    def _begins_again(self):
        remove_temporaries(self.run / "checkpoints")
        folders = checkpoint_folders(self.run)
        assert set((self.run / "checkpoints").glob("*")) == set(folders)
        if folders:
            found, complaints = newest_checkpoint(self.run)
            assert found.state.step == max(self._intact())
            assert len(complaints) == folders.index(found.folder)
            self.step = found.state.step
        else:
            self.step = 0

    def _intact(self):
        return {int(folder.name[-9:]) for folder in checkpoint_folders(self.run) if is_intact(folder)}

    def _check(self, before):
        """Compare the contents with the earlier ones and those saved since."""
        after = self._intact()
        assert len(after) >= min(2, len(before))
        assert max(after, default=0) >= max(before, default=0)
        for folder in checkpoint_folders(self.run):
            assert is_intact(folder) or int(folder.name[-9:]) in self.rotten
        self.rotten -= after
        every = self.recipe.train.keep_every_images
        assert after >= {step for step in before if every and 8 * step // every != 8 * (step - 1) // every}
