"""MOREC's refrigerator: plain and filtered rollouts of a learned model, on a world of one number."""
