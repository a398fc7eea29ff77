"""Your own data: transitions of any robot, from arrays in memory or from files of any columns."""
