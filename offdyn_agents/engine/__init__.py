"""What every agent stands on: the contract, rows and batches, settings, networks, one update of a population, stages.

Nothing here knows an algorithm or a learned model.
"""
