"""Verification of environments: each is what it says it is, and differs from its neighbours.

An environment is held against its declaration: only the declared fields of the model differ from the nominal robot's,
the friction of simulated contacts is the nominal one times the scale, no other environment has the same model, scalar
and batched environment agree bit for bit, copies through JSON and pickle do too, the nominal robots equal Gymnasium's.
How far the shift leads away is measured and published.
"""
