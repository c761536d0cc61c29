"""Who may do what with a launch's files, where the containers of one launch may run under different accounts.

Their jobs have no capabilities, so that not even root overlooks the modes of what is another's.
"""

import os
import stat
from pathlib import Path

TO_READ = 0o044
"""For everybody, nothing but reading."""
_READ = 0o444


def for_all_in(folder: Path) -> int:
    """Return what others may do in a folder that is a launch's alone, as bits of a mode: they may write, too.

    If it has a group that it hands on and in which we are, so are all containers of the launch, and nobody else may
    write. Otherwise nothing is known of the accounts, and whoever sees the folder may.
    """
    found = folder.stat()
    has_group = found.st_mode & stat.S_ISGID and found.st_gid in {os.getegid(), *os.getgroups()}
    return 0o064 if has_group else 0o066


def open_up(tree: Path, bits: int) -> None:
    """Let others do with all that is in a tree what these bits say. What its owner may run, they may run. Blocks."""
    runs = (bits & _READ) >> 2
    for above, _, files in os.walk(tree):
        folder = Path(above)
        folder.chmod(0o700 | bits | runs | folder.stat().st_mode & stat.S_ISGID)
        for path in (folder / name for name in files):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.chmod(0o600 | bits | (0o100 | runs if mode & stat.S_IXUSR else 0))
