"""The leaderboard as one static page, and as a table of the terminal."""
