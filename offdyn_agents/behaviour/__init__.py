"""Learners that train the behaviour policies of the datasets."""
