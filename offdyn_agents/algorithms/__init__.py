"""The agents, one file a method; `registry` finds them by name."""
