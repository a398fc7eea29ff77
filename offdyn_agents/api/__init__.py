"""What `import offdyn` gives in Python: training, runs, policies, comparisons. Everything goes through run folders."""
