"""How the processes of a command end."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function; one of several processes then exits without running destructors.

    The threads of a process group outlive its last collective for a moment. A destructor that joins them while it holds
    the interpreter's lock can wait forever, and an interpreter that ends beneath them can crash (pytorch#190489).

    Parameters
    ----------
    main : callable
        Takes no arguments, and may raise `SystemExit`.
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
    except BaseException:  # noqa: BLE001  the process ends here, as the interpreter would end it
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
