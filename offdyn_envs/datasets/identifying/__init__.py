"""Fitting the simulator to logs: the shift values under which it does again what the logs say was done."""
