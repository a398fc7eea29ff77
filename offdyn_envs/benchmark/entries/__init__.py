"""Entries of the leaderboard: made from runs, checked, run again, ranked."""
