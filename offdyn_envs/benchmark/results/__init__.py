"""The results page of a track: `offdyn leaderboard results`. Every figure follows from entries, verdicts and runs."""
