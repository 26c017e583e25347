"""Ports are chosen long before anybody listens on them, by several processes at once."""

import subprocess
import sys

import pytest
from cauce.dev import ports
from cauce.dev.ports import choose_port

CHOOSE_FIFTY_AND_STAY = """
import sys
from cauce.dev import ports
ports._CHOICE = range(31_000, 31_200)
print(*(ports.choose_port() for _ in range(50)), flush=True)
sys.stdin.read()
"""


def test_no_port_is_chosen_twice_by_processes_that_run_at_the_same_time() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHOOSE_FIFTY_AND_STAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    chosen: list[str] = []
    for process in processes:
        assert process.stdout is not None
        chosen += process.stdout.readline().split()
    for process in processes:
        process.communicate("")

    assert len(set(chosen)) == len(chosen) == 150


def test_a_process_chooses_another_one_each_time_and_gets_one_it_prefers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_CHOICE", range(31_000, 31_300))
    chosen = [choose_port() for _ in range(100)]

    assert len(set(chosen)) == 100
    assert choose_port(chosen[0]) == chosen[0]
