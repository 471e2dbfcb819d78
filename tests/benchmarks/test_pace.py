"""When the loader sends: on time, since whatever it is late is taken for the service's."""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from notify.bench.pace import sharpen_sleep

PR_GET_TIMERSLACK = 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux makes sleeps longer")
def test_sleeps_of_the_clock_end_when_they_are_over_and_nobody_elses_change() -> None:
    def read_slack() -> int:
        slack: int = ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
        return slack

    def read_sharpened() -> int:
        sharpen_sleep()
        return read_slack()

    usual = read_slack()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(read_sharpened).result() == 1
    assert read_slack() == usual > 1
