"""What datasets hold, in words, figures and pictures."""
