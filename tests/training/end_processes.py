"""Train on two processes many times: each process must end by itself, with status 0, whatever the machine is doing.

    python -m tests.training.end_processes DATASET FOLDER 300

imports everything once and forks the processes, which then run `scripts/train.py`.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from scripts import train
from tests.launching import free_port

SHORTEST = ["--global_batch_size", "64", "--max_steps", "1", "--eval_steps", "1", "--save_steps", "1"]
LONGEST_S = 120  # a bound on a hang


def start(rank, port, log, arguments):
    """Fork one of two processes; gives its id."""
    child = os.fork()
    if child:
        return child
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    output = os.open(log, os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["train.py", *arguments]
    train.run_command(train.main)


def end_once(folder, arguments):
    """Train once; gives the exit codes, None for a process that never ended."""
    port = free_port()
    processes = [start(rank, port, folder / f"{rank}.log", arguments) for rank in (0, 1)]
    codes, deadline = {}, time.monotonic() + LONGEST_S
    while len(codes) < 2 and time.monotonic() < deadline:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            codes[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for process in set(processes) - set(codes):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return [codes.get(process) for process in processes]


def main(dataset, folder, times, *options):
    """Print how many ends were not in order; the logs of the first stay in the folder."""
    folder, recipe = Path(folder), str(Path(train.__file__).parents[1] / "configs" / "cpu_tiny.yaml")
    for number in range(int(times)):
        shutil.rmtree(folder / "run", ignore_errors=True)
        codes = end_once(folder, [recipe, "--dataset", dataset, *options, *SHORTEST, "--output_dir", f"{folder}/run"])
        if codes != [0, 0] or not (folder / "run" / "final" / "config.json").is_file():
            sys.exit(f"end {number + 1}: exit codes {codes}; see {folder}/0.log and {folder}/1.log")
    print(f"{times} ends, each in order")


if __name__ == "__main__":
    main(*sys.argv[1:])
