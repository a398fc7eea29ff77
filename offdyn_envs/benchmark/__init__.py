"""Scoring, statistics, submissions, verification and the leaderboard page.

Nothing is imported here: `offdyn --help` must stay fast, and ONNX, jsonschema and the simulator are only needed by
some modules.
"""
