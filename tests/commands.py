"""plusx's command line in this process: one of its own takes seconds to import torch."""

import io
import os
import subprocess
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from plusx.cli import main


def in_process(*words: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """What `plusx WORDS` gives: its exit code, standard output and standard error."""
    out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin))
    with ExitStack() as stack:
        for context in (chdir(cwd or Path.cwd()), patch.dict(os.environ), patch("sys.stdin", given)):
            stack.enter_context(context)
        os.environ.pop("COLUMNS", None)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        code = main([*map(str, words)])
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
