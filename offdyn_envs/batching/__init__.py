"""What the batched environment is made of: arguments, threads, models of rows."""
