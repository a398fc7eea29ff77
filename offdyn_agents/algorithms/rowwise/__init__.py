"""IQL on source rows that a method chooses, weighs, rewards or edits one by one, each method in a file of its own."""
