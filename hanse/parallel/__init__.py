"""Many processes training one model: applied to a model from outside, one mechanism a file.

The order is fixed: split experts, compile, recompute activations, shard. `ranks` comes first: who takes part.
"""
