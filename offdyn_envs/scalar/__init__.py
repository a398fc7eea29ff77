"""What the scalar MuJoCo environments share: arguments, drawing, copies of a running environment."""
