"""What a recipe will cost before it runs: sizes, memory, traffic and time, on this computer or on a named machine.

Torch-free, as the command line needs it.
"""

from hanse.plan.estimate import Plan, available_memory_gib, lines, measured_matrix_rate, model_config, plan, show

__all__ = ["Plan", "available_memory_gib", "lines", "measured_matrix_rate", "model_config", "plan", "show"]
