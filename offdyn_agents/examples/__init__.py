"""Small experiments that show one idea each; run them with `python -m offdyn_agents.examples.NAME`."""
