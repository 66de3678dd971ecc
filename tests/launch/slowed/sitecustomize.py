"""Makes a training step last longer, so that a run outlasts a job on any computer. It changes no number."""

import os
import time

from hanse.train.metrics import MetricsLog

_write = MetricsLog.write


def _write_and_wait(self, row):
    _write(self, row)
    time.sleep(float(os.environ["STEP_SECONDS"]))


MetricsLog.write = _write_and_wait
