"""The name of the machine in cards and benchmarks."""

from pathlib import Path

import pytest
import torch

from modeling_macaron import machine as module

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor @ 2.00GHz
flags\t\t: fpu amx_bf16
processor\t: 1
model name\t: Intel(R) Xeon(R) Processor @ 2.00GHz
"""


@pytest.mark.parametrize(("processes", "expected"), [(1, "2 cores"), (4, "8 cores")])
def test_cpu_is_named_with_the_cores_that_were_used(monkeypatch, processes, expected):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert module.read_processor() == ("Intel Xeon Processor @ 2.00GHz", "fpu amx_bf16")
    assert module.hardware(torch.device("cpu"), processes) == f"{expected} of Intel Xeon Processor @ 2.00GHz"


def test_one_core_is_singular(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert module.hardware(torch.device("cpu"), 1).startswith("1 core of ")


def test_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert module.hardware(torch.device("cuda:0"), 4) == "4 x NVIDIA H200"


def test_machine_without_cpuinfo_still_has_a_name(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    name, flags = module.read_processor()
    assert name and flags == ""
