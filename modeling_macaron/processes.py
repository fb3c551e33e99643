"""End the processes of a command."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function; with several processes, exit without running destructors.

    The threads of a process group briefly outlive its last collective. A destructor that joins them while holding the
    interpreter lock can deadlock, and shutting down the interpreter before they end can crash (pytorch#190489).

    Parameters
    ----------
    main : callable
        Takes no arguments and may raise `SystemExit`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        main()
        return
    status = 1
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  the process ends here
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
